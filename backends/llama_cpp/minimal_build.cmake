# Read by CMake at every project() of llama-cpp-python's build (see `make setup`): leaves out llama.cpp's "common"
# library, which the Python package neither loads nor ships a binding for. A normal variable shadows the cache entry
# that the package forces to ON (CMake policy CMP0126).
set(LLAMA_BUILD_COMMON OFF)
