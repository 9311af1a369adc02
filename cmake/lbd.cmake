# SPDX-License-Identifier: MIT
# The build's vocabulary: lbd_library, lbd_test, lbd_fuzzer.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
# Assertions stay on in a release: whoever breaks an invariant must not go on with other people's data.
foreach(kind RELEASE RELWITHDEBINFO MINSIZEREL)
  string(REGEX REPLACE "[-/]DNDEBUG" "" CMAKE_CXX_FLAGS_${kind} "${CMAKE_CXX_FLAGS_${kind}}")
endforeach()
set(LBD_SANITIZE "" CACHE STRING "Sanitizers, as for -fsanitize= (address,undefined or thread)")
option(LBD_LIBFUZZER "Build the fuzzers with libFuzzer (clang); otherwise they replay and mutate by themselves" OFF)
find_package(PkgConfig REQUIRED)
find_package(GTest REQUIRED)
find_package(fmt REQUIRED)
find_package(Threads REQUIRED)

add_library(lbd_flags INTERFACE)
target_compile_options(lbd_flags INTERFACE -Wall -Wextra -Wshadow -Wconversion -Werror
  -fno-strict-aliasing)
target_compile_definitions(lbd_flags INTERFACE LBD_VERSION="${PROJECT_VERSION}")
target_include_directories(lbd_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(lbd_flags INTERFACE -Wno-sign-conversion)
endif()
if(LBD_SANITIZE)
  target_compile_definitions(lbd_flags INTERFACE LBD_SANITIZED)
  target_compile_options(lbd_flags INTERFACE -fsanitize=${LBD_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(lbd_flags INTERFACE -fsanitize=${LBD_SANITIZE})
endif()
# gcc before 13 reports maybe-uninitialized inside coroutine frames it made itself, and restrict in its
# own std::string (at -O3).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(lbd_flags INTERFACE -Wno-maybe-uninitialized -Wno-restrict
    -Wno-sign-conversion)
endif()

# lbd_library(NAME SOURCES a.cc b.cc DEPS lbd_base fmt::fmt ...)
# Without sources it is a header-only library.
function(lbd_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  if(arg_SOURCES)
    add_library(${name} STATIC ${arg_SOURCES})
    target_link_libraries(${name} PUBLIC lbd_flags ${arg_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE lbd_flags ${arg_DEPS})
  endif()
endfunction()

# lbd_test(NAME SOURCES x_test.cc DEPS ... [LABEL unit] [TIMEOUT seconds] [ARGS ...])
function(lbd_test name)
  cmake_parse_arguments(arg "" "LABEL;TIMEOUT" "SOURCES;DEPS;ARGS" ${ARGN})
  if(NOT arg_LABEL)
    set(arg_LABEL unit)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE lbd_flags ${arg_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  # The tests' own code takes twice as long to optimize, and nothing waits for it.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  add_test(NAME ${name} COMMAND ${name} ${arg_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT})
endfunction()

# lbd_fuzzer(NAME SOURCES x_fuzz.cc DEPS ... [CORPUS dir]): the source defines LLVMFuzzerTestOneInput.
# Two tests: NAME runs about 1 s, NAME.long (label slow) about 20 s, or with libFuzzer as driver just
# that long. Our own driver is deterministic: a fixed seed and a fixed number of inputs.
function(lbd_fuzzer name)
  cmake_parse_arguments(arg "" "CORPUS" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE lbd_flags ${arg_DEPS})
  if(LBD_LIBFUZZER)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    # libFuzzer adds what it finds to the first folder; it is not to be the source tree's.
    set(found ${CMAKE_BINARY_DIR}/corpus/${name})
    file(MAKE_DIRECTORY ${found} ${found}.long)
    add_test(NAME ${name} COMMAND ${name} -max_total_time=1 -seed=1 ${found} ${arg_CORPUS})
    add_test(NAME ${name}.long
      COMMAND ${name} -max_total_time=20 -seed=2 ${found}.long ${arg_CORPUS})
  else()
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/fuzz/driver.cc)
    add_test(NAME ${name} COMMAND ${name} -runs=80000 ${arg_CORPUS})
    add_test(NAME ${name}.long COMMAND ${name} -runs=2000000 -seed=2 ${arg_CORPUS})
  endif()
  set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 60)
  set_tests_properties(${name}.long PROPERTIES LABELS "fuzz;slow" TIMEOUT 300)
endfunction()

# lbd_target(NAME SOURCES .. DEPS .. TYPES linear ...): a library of target types. Each type T is an object
# `extern const lbd::block::target_type T_type` in namespace lbd::target ('-' in a type's name is '_').
function(lbd_target name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS;TYPES" ${ARGN})
  lbd_library(${name} SOURCES ${arg_SOURCES} DEPS lbd_block ${arg_DEPS})
  set_property(GLOBAL APPEND PROPERTY LBD_TARGET_LIBRARIES ${name})
  set_property(GLOBAL APPEND PROPERTY LBD_TARGET_TYPES ${arg_TYPES})
endfunction()

# Makes the library lbd_target_registry: one explicit list of all target types, no static constructors.
function(lbd_make_target_registry)
  get_property(types GLOBAL PROPERTY LBD_TARGET_TYPES)
  get_property(libraries GLOBAL PROPERTY LBD_TARGET_LIBRARIES)
  set(declared "")
  set(listed "")
  foreach(type ${types})
    string(REPLACE "-" "_" symbol ${type})
    string(APPEND declared "extern const block::target_type ${symbol}_type;\n")
    string(APPEND listed "      &${symbol}_type,\n")
  endforeach()
  configure_file(${CMAKE_SOURCE_DIR}/cmake/target_registry.cc.in
    ${CMAKE_BINARY_DIR}/generated/target_registry.cc @ONLY)
  lbd_library(lbd_target_registry SOURCES ${CMAKE_BINARY_DIR}/generated/target_registry.cc
    DEPS lbd_block ${libraries})
endfunction()
