# The reactor and its dispatch policy are tested apart from the rest of the coordinator: this program links the folder
# jobs alone, so it also shows that they need nothing else.
set(reactor_folder ${CMAKE_SOURCE_DIR}/coordinator)
file(GLOB reactor_sources CONFIGURE_DEPENDS ${reactor_folder}/reactor*.cc ${reactor_folder}/dispatch_policy.cc)
file(GLOB simulation_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/simulation*.cc)
list(FILTER simulation_sources EXCLUDE REGEX "_test\\.cc$")
file(GLOB reactor_test_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/reactor*_test.cc
     ${CMAKE_CURRENT_LIST_DIR}/dispatch_policy_test.cc ${CMAKE_CURRENT_LIST_DIR}/simulation*_test.cc)
add_executable(reactor_tests ${reactor_test_sources} ${simulation_sources} ${reactor_sources})
target_include_directories(reactor_tests PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(reactor_tests PRIVATE ${FINESWEEP_RELATIVE_NAMES})
target_link_libraries(reactor_tests PRIVATE finesweep_jobs GTest::gmock GTest::gtest GTest::gtest_main)

gtest_discover_tests(reactor_tests WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} DISCOVERY_TIMEOUT 60
                     PROPERTIES LABELS "coordinator" TIMEOUT 600)

# Whole copies of reactor and simulation, each with one bug planted and in a namespace of its own.
if(FINESWEEP_SANITIZE)
  return()
endif()
target_sources(reactor_tests PRIVATE ${CMAKE_CURRENT_LIST_DIR}/planted_bugs_test.cc)
set(mutants_script ${CMAKE_CURRENT_LIST_DIR}/mutants.cmake)
set(unchanged_sources ${reactor_sources})
list(FILTER unchanged_sources EXCLUDE REGEX "/reactor(_state)?\\.cc$")
foreach(mutant accepts_older_attempts forgets_lost_attempts acknowledges_too_early takes_silence_for_an_end
        forgets_who_joined)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/mutants/${mutant})
  add_custom_command(
    OUTPUT ${folder}/reactor.cc ${folder}/reactor_state.cc
    COMMAND ${CMAKE_COMMAND} -DMUTANT=${mutant} -DSOURCES=${reactor_folder} -DOUT=${folder} -P ${mutants_script}
    DEPENDS ${mutants_script} ${reactor_folder}/reactor.cc ${reactor_folder}/reactor_state.cc
    VERBATIM)
  add_library(reactor_that_${mutant} OBJECT ${folder}/reactor.cc ${folder}/reactor_state.cc ${unchanged_sources}
                                            ${simulation_sources})
  set_target_properties(reactor_that_${mutant} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
  target_compile_definitions(reactor_that_${mutant} PRIVATE coordinator=coordinator_that_${mutant})
  target_include_directories(reactor_that_${mutant} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(reactor_that_${mutant} PRIVATE finesweep_jobs)
  target_link_libraries(reactor_tests PRIVATE reactor_that_${mutant})
endforeach()
