# The CUDA library: included where nvcc was found and there are kernels to build.
if(DEFINED ENV{TORCH_CUDA_ARCH_LIST} AND NOT CMAKE_CUDA_ARCHITECTURES)
  # "8.0;9.0a+PTX" -> "80-real;90a"
  string(REPLACE " " ";" requested "$ENV{TORCH_CUDA_ARCH_LIST}")
  foreach(arch ${requested})
    string(REPLACE "." "" arch "${arch}")
    if(arch MATCHES "\\+PTX$")
      string(REPLACE "+PTX" "" arch "${arch}")
    else()
      string(APPEND arch "-real")
    endif()
    list(APPEND CMAKE_CUDA_ARCHITECTURES ${arch})
  endforeach()
elseif(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 90-virtual)
endif()
enable_language(CUDA)
set(CUDA_TOOLKIT "${CMAKE_CUDA_COMPILER_VERSION}")
string(REPLACE ";" "," CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")

add_library(tla_ops_cuda MODULE ${CUDA_SOURCES})
target_compile_definitions(tla_ops_cuda PRIVATE TORCH_TARGET_VERSION=${TLA_TORCH_TARGET} USE_CUDA)
# CMake 3.25 does not know nvcc 13's C++20.
set_target_properties(tla_ops_cuda PROPERTIES CUDA_STANDARD_REQUIRED OFF SKIP_BUILD_RPATH ON CUDA_RUNTIME_LIBRARY Static)
# Sums are fused where kernels say so and nowhere else: a distance has the same bits in all of them.
target_compile_options(tla_ops_cuda PRIVATE -std=c++20 -O3 --expt-relaxed-constexpr -fmad=false
  -Xptxas=-warn-spills -Xcompiler=-Wno-attributes)
target_include_directories(tla_ops_cuda SYSTEM PRIVATE ${TLA_TORCH_DIR}/include)
target_link_directories(tla_ops_cuda PRIVATE ${TLA_TORCH_DIR}/lib)
if(EXISTS ${TLA_TORCH_DIR}/lib/libtorch_cuda.so)
  target_link_libraries(tla_ops_cuda PRIVATE torch_cuda torch_cpu c10)
else()
  # A CPU-only torch has no libtorch_cuda.so to link: an empty library of that name stands in at link time.
  file(WRITE ${CMAKE_BINARY_DIR}/empty.cpp "")
  add_library(torch_cuda SHARED ${CMAKE_BINARY_DIR}/empty.cpp)
  set_target_properties(torch_cuda PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/stub)
  target_link_options(tla_ops_cuda PRIVATE -Wl,--no-as-needed)
  target_link_libraries(tla_ops_cuda PRIVATE torch_cuda torch_cpu c10)
endif()
