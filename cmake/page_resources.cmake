# The files that report.html inlines become string literals of finesweep_reports, so that a report needs nothing beside
# the program.
file(READ ${CMAKE_SOURCE_DIR}/reports/page/report.css page_styles)
file(READ ${CMAKE_SOURCE_DIR}/reports/page/report.js page_script)
file(READ ${CMAKE_SOURCE_DIR}/reports/page/chart.js.licence chart_licence)
file(READ ${FINESWEEP_CHART_JS} chart_library)
string(CONCAT chart_library "/*!\n${chart_licence}*/\n" "${chart_library}")
foreach(resource page_styles page_script chart_library)
  # The one would end the string, the other the script element.
  string(FIND "${${resource}}" ")resource\"" ends_literal)
  string(FIND "${${resource}}" "</" ends_element)
  if(NOT ends_literal EQUAL -1 OR NOT ends_element EQUAL -1)
    message(FATAL_ERROR "${resource} cannot be inlined into report.html: it holds </ or )resource\"")
  endif()
endforeach()
configure_file(${CMAKE_SOURCE_DIR}/cmake/page_resources.cc.in ${CMAKE_BINARY_DIR}/generated/page_resources.cc @ONLY)
# The page of a running sweep, likewise.
file(READ ${CMAKE_SOURCE_DIR}/coordinator/page/status.html status_page)
configure_file(${CMAKE_SOURCE_DIR}/cmake/status_page.cc.in ${CMAKE_BINARY_DIR}/generated/status_page.cc @ONLY)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
  ${CMAKE_SOURCE_DIR}/reports/page/report.css ${CMAKE_SOURCE_DIR}/reports/page/report.js
  ${CMAKE_SOURCE_DIR}/reports/page/chart.js.licence ${CMAKE_SOURCE_DIR}/coordinator/page/status.html ${FINESWEEP_CHART_JS})
target_sources(finesweep_reports PRIVATE ${CMAKE_BINARY_DIR}/generated/page_resources.cc)
