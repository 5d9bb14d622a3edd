# cmake -DNVCC= -DSOURCES= -DOUTPUT= -DARCHITECTURES= -DREQUIRED=ON|AUTO -P build.cmake
set(codes "")
foreach(arch IN LISTS ARCHITECTURES)
  list(APPEND codes -gencode arch=compute_${arch},code=sm_${arch})
endforeach()
list(GET ARCHITECTURES -1 last)
list(APPEND codes -gencode arch=compute_${last},code=compute_${last})
file(REMOVE ${OUTPUT})
execute_process(
  COMMAND ${NVCC} -O3 -std=c++17 -fmad=false -Werror all-warnings -t 0 -shared -Xcompiler -fPIC,-fvisibility=hidden
          ${codes} -o ${OUTPUT} ${SOURCES}
  RESULT_VARIABLE failed OUTPUT_VARIABLE log ERROR_VARIABLE log)
if(failed)
  file(REMOVE ${OUTPUT})
  if(REQUIRED STREQUAL "ON")
    message(FATAL_ERROR "nvcc failed:\n${log}")
  endif()
  message(WARNING "visavis: nvcc failed, so there is no CUDA library; everything else works without it.\n${log}")
endif()
