# Debian packages, and libtorch from the PyPI wheel (see scripts/setup).
find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(SQLiteCpp REQUIRED)
find_package(MPI REQUIRED COMPONENTS CXX)

# Chart.js (Debian's libjs-chart.js) is inlined into report.html.
if(NOT FINESWEEP_CHART_JS)
  unset(FINESWEEP_CHART_JS CACHE)
  find_file(FINESWEEP_CHART_JS chart.min.js PATHS /usr/share/javascript/chart.js /usr/share/nodejs/chart.js/dist NO_DEFAULT_PATH)
endif()
if(NOT EXISTS "${FINESWEEP_CHART_JS}")
  message(FATAL_ERROR "Chart.js not found: run scripts/setup, or pass -DFINESWEEP_CHART_JS=FILE, the chart.min.js of Chart.js 3.9")
endif()

# Where messages name a file (tests, assertions), they name it from here: so too what one clone compiled serves another.
set(FINESWEEP_RELATIVE_NAMES -ffile-prefix-map=${CMAKE_SOURCE_DIR}/=)
find_program(FINESWEEP_CCACHE ccache)
if(FINESWEEP_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${FINESWEEP_CCACHE})
endif()
find_program(FINESWEEP_MOLD mold)
if(FINESWEEP_MOLD)
  add_link_options(-fuse-ld=mold)
  # Before 2.4, mold gives some programs a read-only region that reaches past what is mapped: they fail to start, as the
  # layout has it (github.com/rui314/mold/issues/1151).
  execute_process(COMMAND ${FINESWEEP_MOLD} --version OUTPUT_VARIABLE mold_version)
  string(REGEX MATCH "[0-9]+\\.[0-9]+" mold_version "${mold_version}")
  if(mold_version VERSION_LESS 2.4)
    add_link_options(-Wl,-z,norelro)
  endif()
endif()

add_compile_options(-Wall -Wextra -Wno-unused-parameter)
if(NOT CMAKE_BUILD_TYPE STREQUAL "Release")
  add_compile_options(${FINESWEEP_RELATIVE_NAMES})
endif()
if(FINESWEEP_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # With sanitizers GCC takes much of the standard library for uninitialised.
  add_compile_options(-Wno-maybe-uninitialized)
endif()
if(FINESWEEP_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1)
  if(NOT FINESWEEP_FUZZ)
    # AddressSanitizer sees these as well, and they are a quarter of the time that compiling takes.
    add_compile_options(-fno-sanitize=null,object-size,vptr)
  endif()
  add_link_options(-fsanitize=address,undefined)
elseif(FINESWEEP_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer -g1)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options(-Wno-tsan)  # it does not see fences, which Boost.Asio has beside what it sees
  endif()
  add_link_options(-fsanitize=thread)
endif()

# libtorch: headers and the CPU libraries alone. The CUDA library is loaded at run time where a GPU is used, so one
# build serves machines with and without.
if(FINESWEEP_ENGINE)
  if(NOT FINESWEEP_LIBTORCH)
    file(GLOB candidates ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
    list(GET candidates 0 FINESWEEP_LIBTORCH)
  endif()
  if(NOT EXISTS ${FINESWEEP_LIBTORCH}/lib/libtorch_cpu.so)
    message(FATAL_ERROR "libtorch not found: run scripts/setup, or pass -DFINESWEEP_LIBTORCH=DIR")
  endif()
  get_filename_component(FINESWEEP_LIBTORCH ${FINESWEEP_LIBTORCH} REALPATH)
  add_library(finesweep_libtorch INTERFACE)
  target_include_directories(finesweep_libtorch SYSTEM INTERFACE ${FINESWEEP_LIBTORCH}/include
                                                                 ${FINESWEEP_LIBTORCH}/include/torch/csrc/api/include)
  target_link_libraries(finesweep_libtorch INTERFACE ${FINESWEEP_LIBTORCH}/lib/libtorch_cpu.so
                                                     ${FINESWEEP_LIBTORCH}/lib/libc10.so)
  target_link_options(finesweep_libtorch INTERFACE -Wl,--allow-shlib-undefined)
endif()
