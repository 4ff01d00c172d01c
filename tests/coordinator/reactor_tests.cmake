# The reactor and its dispatch policy are tested apart from the rest of the coordinator: this program links the folder
# jobs alone, so it also shows that they need nothing else.
file(GLOB reactor_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/coordinator/reactor*.cc
     ${CMAKE_SOURCE_DIR}/coordinator/dispatch_policy.cc)
file(GLOB reactor_test_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/reactor*_test.cc
     ${CMAKE_CURRENT_LIST_DIR}/dispatch_policy_test.cc ${CMAKE_CURRENT_LIST_DIR}/simulation*.cc)
add_executable(reactor_tests ${reactor_test_sources} ${reactor_sources})
target_include_directories(reactor_tests PRIVATE ${CMAKE_SOURCE_DIR})
target_link_libraries(reactor_tests PRIVATE finesweep_jobs GTest::gmock GTest::gtest GTest::gtest_main)
gtest_discover_tests(reactor_tests WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} DISCOVERY_TIMEOUT 60
                     PROPERTIES LABELS "coordinator" TIMEOUT 600)
