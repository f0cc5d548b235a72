# The message packages of the PyPI ROS wheels name an include folder of the machine that built
# them, and CMake stops at a folder that does not exist. setup.py injects this file with
# CMAKE_PROJECT_INCLUDE, so that a stock ROS never sees it. For colcon with the wheels:
#   colcon build --cmake-args -DCMAKE_PROJECT_INCLUDE=<repository>/cmake/wheel_includes.cmake
function(dmo_drop_missing_includes)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target ${targets})
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders)
      set(kept "")
      foreach(folder ${folders})
        if(NOT IS_ABSOLUTE "${folder}" OR EXISTS "${folder}")
          list(APPEND kept "${folder}")
        endif()
      endforeach()
      set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${kept}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL dmo_drop_missing_includes)  # CMake 3.19: after CMakeLists.txt
