# finesweep_folder(NAME LINK public libraries PRIVATE private libraries): the library finesweep_NAME from every source
# of the folder NAME, included as "NAME/header.h".
function(finesweep_folder name)
  cmake_parse_arguments(ARG "" "" "LINK;PRIVATE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${name}/*.cc)
  if(NOT sources)
    add_library(finesweep_${name} INTERFACE)
    target_link_libraries(finesweep_${name} INTERFACE ${ARG_LINK})
    return()
  endif()
  add_library(finesweep_${name} STATIC ${sources})
  target_include_directories(finesweep_${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(finesweep_${name} PUBLIC ${ARG_LINK} PRIVATE ${ARG_PRIVATE})
endfunction()
