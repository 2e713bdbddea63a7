/* A driver of CUDA without a device (libcuda.so.1 of launch_time.py and tests/gpu/test_plan.py): answers what Triton asks
   of a Hopper GPU, and writes down what is launched. Kernels do not run. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef struct {
  unsigned grid[3], block[3], shared;
  void* stream;
  void* attributes;
  unsigned attribute_count;
} Config;

enum { kOk = 0, kMostParameters = 128, kMostLaunches = 4096 };
struct Launch {
  uint64_t function, stream;
  uint32_t grid[3], block[3], shared, attributes, count;
  uint64_t parameters[kMostParameters];
};

static struct Launch launches[kMostLaunches];
static int64_t launched, functions, refusals;
static struct {
  uint64_t function;
  int count, bytes[kMostParameters];
} known[kMostLaunches];
static int known_count;
static __thread int current; /* contexts belong to threads */

/* For the tests. */
int64_t driver_launched(void) { return launched; }
const struct Launch* driver_launches(void) { return launches; }
void driver_forget(void) { launched = 0; }
void driver_refuse(int64_t count) { refusals = count; }
void driver_describe(uint64_t function, int count, const int* bytes) {
  for (int k = 0; k < known_count; ++k)
    if (known[k].function == function) return;
  known[known_count].function = function;
  known[known_count].count = count;
  memcpy(known[known_count++].bytes, bytes, (size_t)count * sizeof(int));
}

static Result launch(uint64_t f, const unsigned* grid, const unsigned* block, unsigned shared, void* stream,
                     unsigned attributes, void** parameters) {
  if (refusals > 0) return refusals--, 1; /* CUDA_ERROR_INVALID_VALUE */
  if (!current) return 201;               /* CUDA_ERROR_INVALID_CONTEXT */
  struct Launch* const l = &launches[launched++ % kMostLaunches];
  memset(l, 0, sizeof *l);
  l->function = f;
  l->stream = (uint64_t)stream;
  memcpy(l->grid, grid, sizeof l->grid);
  memcpy(l->block, block, sizeof l->block);
  l->shared = shared;
  l->attributes = attributes;
  for (int k = 0; k < known_count; ++k) {
    if (known[k].function != f) continue;
    l->count = (uint32_t)known[k].count;
    for (int i = 0; i < known[k].count; ++i)
      memcpy(&l->parameters[i], parameters[i], (size_t)known[k].bytes[i]);
  }
  return kOk;
}

Result cuLaunchKernelEx(const Config* c, void* f, void** parameters, void** extra) {
  (void)extra;
  return launch((uint64_t)f, c->grid, c->block, c->shared, c->stream, c->attribute_count, parameters);
}
Result cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void* stream, void** parameters, void** extra) {
  (void)extra;
  const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
  return launch((uint64_t)f, grid, block, shared, stream, 0, parameters);
}

Result cuInit(unsigned flags) { return (void)flags, kOk; }
Result cuDriverGetVersion(int* version) { return *version = 13000, kOk; }
Result cuDeviceGet(int* device, int ordinal) { return *device = ordinal, kOk; }
Result cuDeviceGetCount(int* count) { return *count = 1, kOk; }
Result cuDeviceGetAttribute(int* value, int attribute, int device) {
  (void)device;
  switch (attribute) {
    case 97: *value = 232448; break; /* shared memory per block, opt in */
    case 8: *value = 49152; break;
    case 81: *value = 233472; break; /* per multiprocessor */
    case 16: *value = 132; break;    /* multiprocessors */
    case 10: *value = 32; break;     /* warp size */
    case 12: *value = 65536; break;  /* registers per block */
    case 75: *value = 9; break;      /* compute capability */
    case 76: *value = 0; break;
    default: *value = 1 << 20;
  }
  return kOk;
}
Result cuCtxGetCurrent(void** context) { return *context = current ? &current : NULL, kOk; }
Result cuCtxSetCurrent(void* context) { return current = context != NULL, kOk; }
Result cuCtxGetDevice(int* device) { return *device = 0, kOk; }
Result cuCtxSetLimit(int limit, size_t value) { return (void)limit, (void)value, kOk; }
Result cuCtxGetLimit(size_t* value, int limit) { return (void)limit, *value = 0, kOk; }
Result cuDevicePrimaryCtxRetain(void** context, int device) { return (void)device, *context = &current, kOk; }
Result cuModuleLoadData(void** module, const void* image) { return *module = (void*)image, kOk; }
Result cuModuleUnload(void* module) { return (void)module, kOk; }
Result cuModuleGetFunction(void** function, void* module, const char* name) {
  (void)module, (void)name;
  return *function = (void*)(0x1000 + 16 * ++functions), kOk;
}
Result cuFuncGetAttribute(int* value, int attribute, void* function) {
  (void)attribute, (void)function;
  return *value = attribute == 0 ? 1024 : 0, kOk; /* threads that a block may have */
}
Result cuFuncSetAttribute(void* function, int attribute, int value) {
  return (void)function, (void)attribute, (void)value, kOk;
}
Result cuFuncSetCacheConfig(void* function, int config) { return (void)function, (void)config, kOk; }
Result cuGetErrorString(int error, const char** text) {
  return *text = error == 1 ? "invalid argument" : error == 201 ? "invalid device context" : "unknown", kOk;
}
Result cuPointerGetAttribute(void* value, int attribute, uint64_t pointer) {
  (void)attribute;
  return *(uint64_t*)value = pointer, kOk;
}
Result cuPointerGetAttributes(unsigned count, int* attributes, void** values, uint64_t pointer) {
  for (unsigned k = 0; k < count; ++k) (void)attributes, *(uint64_t*)values[k] = pointer;
  return kOk;
}
Result cuStreamIsCapturing(void* stream, int* status) { return (void)stream, *status = 0, kOk; }
Result cuOccupancyMaxActiveClusters(int* clusters, void* f, const Config* c) {
  return (void)f, (void)c, *clusters = 1, kOk;
}
Result cuTensorMapEncodeTiled(void) { return kOk; }
Result cuTensorMapEncodeIm2col(void) { return kOk; }
