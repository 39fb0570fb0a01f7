/* A CUDA driver made up in host memory: what the device layer asks of one, so that the real cuda-bindings can be called.
   Addresses are malloc's, copies are memcpy, streams and events are numbers, an event's time is a count of calls. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
static uintptr_t made = 100;
static float now;
static float at[1000];
static int held;

Result cuInit(unsigned flags) { return 0; }
Result cuDriverGetVersion(int *v) { *v = 13000; return 0; }
Result cuDeviceGet(int *device, int index) { *device = index; return index == 0 ? 0 : 101; }
Result cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)7; held++; return 0; }
Result cuDevicePrimaryCtxRelease_v2(int device) { held--; return 0; }
Result cuCtxSetCurrent(void *context) { return context == (void *)7 ? 0 : 201; }
Result cuMemAlloc_v2(uintptr_t *address, size_t size) {
    if (size > (1u << 30)) return 2;
    *address = (uintptr_t)malloc(size); held++; return 0;
}
Result cuMemFree_v2(uintptr_t address) { free((void *)address); held--; return 0; }
Result cuMemAllocHost_v2(void **address, size_t size) { *address = malloc(size); held++; return 0; }
Result cuMemFreeHost(void *address) { free(address); held--; return 0; }
Result cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)made++; held++; return flags == 1 ? 0 : 1; }
Result cuStreamDestroy_v2(void *stream) { held--; return 0; }
Result cuStreamSynchronize(void *stream) { return stream ? 0 : 400; }
Result cuEventCreate(void **event, unsigned flags) { *event = (void *)made++; held++; return 0; }
Result cuEventDestroy_v2(void *event) { held--; return 0; }
Result cuEventRecord(void *event, void *stream) { at[(uintptr_t)event % 1000] = now += 0.25f; return stream ? 0 : 400; }
Result cuEventElapsedTime(float *ms, void *a, void *b) {
    *ms = at[(uintptr_t)b % 1000] - at[(uintptr_t)a % 1000]; return 0;
}
Result cuEventElapsedTime_v2(float *ms, void *a, void *b) { return cuEventElapsedTime(ms, a, b); }
Result cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t size, void *stream) {
    memcpy((void *)to, from, size); return stream ? 0 : 400;
}
Result cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t size, void *stream) {
    memcpy(to, (void *)from, size); return stream ? 0 : 400;
}
Result cuStreamBeginCapture_v2(void *stream, int mode) { return mode == 1 ? 0 : 1; }
Result cuStreamEndCapture(void *stream, void **graph) { *graph = (void *)made++; held++; return 0; }
Result cuGraphInstantiateWithFlags(void **ready, void *graph, unsigned long long flags) {
    *ready = (void *)made++; held++; return flags == 0 ? 0 : 1;
}
Result cuGraphUpload(void *ready, void *stream) { return stream ? 0 : 400; }
Result cuGraphLaunch(void *ready, void *stream) { return ready && stream ? 0 : 400; }
Result cuGraphExecDestroy(void *ready) { held--; return 0; }
Result cuGraphDestroy(void *graph) { held--; return 0; }

/* How much has not been given back. */
int fake_held(void) { return held; }

Result cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    const char *suffixes[] = {"", "_v2", "WithFlags"};
    char full[200];
    *function = NULL;
    for (int i = 0; i < 3 && !*function; i++) {
        snprintf(full, sizeof full, "%s%s", name, suffixes[i]);
        *function = dlsym(RTLD_DEFAULT, full);
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? 0 : 500;
}
Result cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
