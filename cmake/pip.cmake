# What a build by pip, or with the PyPI ROS wheels, needs beyond CMakeLists.txt. setup.py injects
# this file with CMAKE_PROJECT_INCLUDE, so that colcon on a stock ROS never sees it. For colcon
# with the wheels: colcon build --cmake-args -DCMAKE_PROJECT_INCLUDE=<repository>/cmake/pip.cmake

# The wheels' message packages name a folder of the machine that built them: CMake stops at one that is absent.
function(dmo_drop_missing target folders)
  set(kept "")
  foreach(folder ${folders})
    if(NOT IS_ABSOLUTE "${folder}" OR EXISTS "${folder}")
      list(APPEND kept "${folder}")
    endif()
  endforeach()
  set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${kept}")
endfunction()

# numpy's headers lie below our sources when the environment is our .venv: CMake exports no such
# folder, so it counts for this build only.
function(dmo_keep_inside target folders)
  set(kept "")
  foreach(folder ${folders})
    string(FIND "${folder}" "${CMAKE_CURRENT_SOURCE_DIR}/" position)
    if(position EQUAL 0)
      set(folder "$<BUILD_INTERFACE:${folder}>")
    endif()
    list(APPEND kept "${folder}")
  endforeach()
  set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${kept}")
endfunction()

# The middlewares' type support is opened by its bare name, which finds nothing in a virtual
# environment unless it is loaded already: let the Python module load it.
function(dmo_load_type_support)
  set(module ${PROJECT_NAME}_s__rosidl_typesupport_c)
  target_link_options(${module} PRIVATE "LINKER:--no-as-needed")
  foreach(kind fastrtps_c introspection_c)
    if(TARGET ${PROJECT_NAME}__rosidl_typesupport_${kind})
      target_link_libraries(${module} PRIVATE ${PROJECT_NAME}__rosidl_typesupport_${kind})
    endif()
  endforeach()
endfunction()

function(dmo_mend_includes)
  get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
  get_property(built DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target ${imported} ${built})
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders AND target IN_LIST imported)
      dmo_drop_missing(${target} "${folders}")
    elseif(folders)
      dmo_keep_inside(${target} "${folders}")
    endif()
  endforeach()
endfunction()

# After CMakeLists.txt has run; CMake 3.19.
cmake_language(DEFER CALL dmo_mend_includes)
cmake_language(DEFER CALL dmo_load_type_support)
