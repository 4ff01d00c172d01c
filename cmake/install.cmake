# `cmake --install` and `cpack` leave the programs in bin/, the libraries that another machine may lack in lib/, the
# examples in share/finesweep. Two components: `programs` and `gpu_tests` (the test programs with the label gpu).
# scripts/bundle makes both into build/bundle; scripts/gpu-run starts them on a machine that has libtorch.

set(programs "")
foreach(program finesweep finesweep-runner)
  if(TARGET ${program})
    list(APPEND programs ${program})
  endif()
endforeach()
get_property(gpu_tests GLOBAL PROPERTY FINESWEEP_GPU_TESTS)

# Left to the machine: the C and C++ runtimes, libtorch and CUDA (scripts/gpu-run finds them), and MPI with what it
# stands on, since ranks must use the MPI of their launcher.
set(left_to_machine
    "^ld-linux.*" "^lib(c|m|dl|rt|pthread|stdc\\+\\+|gcc_s|gomp)\\.so.*"
    "^lib(torch|c10|cu|nv|nccl|shm).*"
    "^lib(mpi|open-rte|open-pal|opal|prrte|pmix|hwloc|event|udev|ucp|uct|ucs|ucm|fabric|psm|rdmacm|ibverbs|nl-).*"
    "^lib(z|zstd|systemd|cap|munge)\\.so.*")

set(gpu_benches "")
if(TARGET engine_gpu_bench)
  set(gpu_benches engine_gpu_bench engine_generate_bench engine_scaling_bench)
endif()

foreach(program ${programs} ${gpu_tests} ${gpu_benches})
  # DT_RPATH, unlike DT_RUNPATH, also serves the libraries that the libraries in lib/ need.
  target_link_options(${program} PRIVATE -Wl,--disable-new-dtags)
  set(run_path "$ORIGIN/../lib")
  get_target_property(linked ${program} LINK_LIBRARIES)
  if("finesweep_engine" IN_LIST linked)
    list(APPEND run_path ${FINESWEEP_LIBTORCH}/lib)
  endif()
  set_target_properties(${program} PROPERTIES INSTALL_RPATH "${run_path}")
endforeach()

# What a bundle holds, built.
add_custom_target(bundle_programs DEPENDS ${programs} ${gpu_tests} ${gpu_benches})
foreach(library finesweep_cuda finesweep_graph)
  if(TARGET ${library})
    add_dependencies(bundle_programs ${library})
  endif()
endforeach()
install(PROGRAMS ${FINESWEEP_GPU_LIBRARIES} DESTINATION lib COMPONENT programs)

if(programs)
  install(TARGETS ${programs} RUNTIME_DEPENDENCY_SET program_libraries RUNTIME DESTINATION bin COMPONENT programs)
  install(RUNTIME_DEPENDENCY_SET program_libraries PRE_EXCLUDE_REGEXES ${left_to_machine}
          LIBRARY DESTINATION lib COMPONENT programs)
  install(DIRECTORY examples/ DESTINATION share/finesweep/examples COMPONENT programs PATTERN runs EXCLUDE)
  install(FILES LICENSE DESTINATION share/finesweep COMPONENT programs)
  install(PROGRAMS scripts/gpu-run DESTINATION bin COMPONENT programs)
endif()
if(gpu_tests)
  install(TARGETS ${gpu_tests} RUNTIME_DEPENDENCY_SET gpu_test_libraries
          RUNTIME DESTINATION libexec/finesweep/gpu-tests COMPONENT gpu_tests)
  if(gpu_benches)
    install(TARGETS ${gpu_benches} RUNTIME_DEPENDENCY_SET gpu_test_libraries
            RUNTIME DESTINATION libexec/finesweep COMPONENT gpu_tests)
  endif()
  install(RUNTIME_DEPENDENCY_SET gpu_test_libraries PRE_EXCLUDE_REGEXES ${left_to_machine}
          LIBRARY DESTINATION lib COMPONENT gpu_tests)
endif()

set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_FILE_NAME finesweep-${PROJECT_VERSION}-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}/package)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL programs)
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
include(CPack)
