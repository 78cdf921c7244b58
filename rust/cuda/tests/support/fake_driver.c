/* A driver without a GPU, for tests. It takes machine code and launches as the real one does, notes them, and fails
 * where it is told to:
 *   FAKE_CUDA_FAIL        "function=code function=code ..."
 *   FAKE_CUDA_VERSION     what cuDriverGetVersion says; default 13000
 *   FAKE_CUDA_DEVICES     how many GPUs; default 2
 *   FAKE_CUDA_CAPABILITY  of each; default 90
 *   FAKE_CUDA_CAPTURING   1 while every stream is captured
 *   FAKE_CUDA_NOTES       the file that gets a line for each module and each launch
 * Built with -DWITHOUT_LAUNCH it lacks cuLaunchKernel, as an old driver lacks something. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201
};

static int started;
static __thread int depth;
static __thread void* contexts[16];

static int setting(const char* name, int usual)
{
    const char* text = getenv(name);
    return text ? atoi(text) : usual;
}

static int told(const char* function)
{
    const char* fail = getenv("FAKE_CUDA_FAIL");
    const char* found = fail ? strstr(fail, function) : NULL;
    return found && found[strlen(function)] == '=' ? atoi(found + strlen(function) + 1) : SUCCESS;
}

static void note(const char* text)
{
    const char* path = getenv("FAKE_CUDA_NOTES");
    FILE* file = path ? fopen(path, "a") : NULL;
    if (!file) return;
    fprintf(file, "%s\n", text);
    fclose(file);
}

#define FAIL_IF_TOLD                                                                                                   \
    do {                                                                                                               \
        int code = told(__func__);                                                                                     \
        if (code) return code;                                                                                         \
    } while (0)
#define NEED_START                                                                                                     \
    FAIL_IF_TOLD;                                                                                                      \
    if (!started) return NOT_INITIALIZED
#define NEED_CONTEXT                                                                                                   \
    NEED_START;                                                                                                        \
    if (!depth) return INVALID_CONTEXT

int cuInit(unsigned flags)
{
    FAIL_IF_TOLD;
    started = 1;
    return flags ? INVALID_VALUE : SUCCESS;
}

int cuDriverGetVersion(int* version)
{
    *version = setting("FAKE_CUDA_VERSION", 13000);
    return SUCCESS;
}

int cuGetErrorName(int code, const char** name)
{
    static __thread char text[32];
    snprintf(text, sizeof text, "FAKE_ERROR_%d", code);
    *name = text;
    return SUCCESS;
}

int cuGetErrorString(int code, const char** text)
{
    *text = code ? "as told" : "no error";
    return SUCCESS;
}

int cuDeviceGetCount(int* count)
{
    NEED_START;
    *count = setting("FAKE_CUDA_DEVICES", 2);
    return SUCCESS;
}

int cuDeviceGet(int* device, int ordinal)
{
    NEED_START;
    *device = ordinal;
    return ordinal < setting("FAKE_CUDA_DEVICES", 2) ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetName(char* name, int bytes, int device)
{
    NEED_START;
    snprintf(name, bytes, "Fake %d", device);
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t* bytes, int device)
{
    NEED_START;
    *bytes = (size_t)(device + 1) << 34;
    return SUCCESS;
}

int cuDeviceGetAttribute(int* value, int attribute, int device)
{
    NEED_START;
    int capability = setting("FAKE_CUDA_CAPABILITY", 90);
    switch (attribute) {
    case 16: *value = 100 + device; return SUCCESS; /* multiprocessors */
    case 75: *value = capability / 10; return SUCCESS;
    case 76: *value = capability % 10; return SUCCESS;
    case 97: *value = 227 << 10; return SUCCESS; /* shared memory of a block, opt-in */
    default: return INVALID_VALUE;
    }
}

int cuDevicePrimaryCtxRetain(void** context, int device)
{
    NEED_START;
    *context = (void*)(intptr_t)(0xc0 + device);
    note("retain");
    return SUCCESS;
}

int cuCtxGetCurrent(void** context)
{
    NEED_START;
    *context = depth ? contexts[depth - 1] : NULL;
    return SUCCESS;
}

int cuCtxPushCurrent_v2(void* context)
{
    NEED_START;
    contexts[depth++] = context;
    return SUCCESS;
}

int cuCtxPopCurrent_v2(void** context)
{
    NEED_CONTEXT;
    *context = contexts[--depth];
    return SUCCESS;
}

int cuModuleLoadData(void** module, const void* image)
{
    NEED_CONTEXT;
    if (memcmp(image, "\177ELF", 4)) return INVALID_IMAGE;
    *module = malloc(64);
    note("load");
    return SUCCESS;
}

int cuModuleUnload(void* module)
{
    NEED_CONTEXT;
    free(module);
    note("unload");
    return SUCCESS;
}

int cuModuleGetFunction(void** function, void* module, const char* name)
{
    NEED_CONTEXT;
    *function = module;
    snprintf(module, 64, "%s", name);
    return SUCCESS;
}

int cuFuncGetAttribute(int* value, int attribute, void* function)
{
    NEED_CONTEXT;
    *value = 1024; /* bytes of shared memory that the kernel declares */
    return function && attribute == 1 ? SUCCESS : INVALID_VALUE;
}

int cuFuncSetAttribute(void* function, int attribute, int value)
{
    NEED_CONTEXT;
    char text[128];
    snprintf(text, sizeof text, "allow %s %d", (char*)function, value);
    note(text);
    return attribute == 8 ? SUCCESS : INVALID_VALUE;
}

int cuStreamIsCapturing(void* stream, int* status)
{
    NEED_CONTEXT;
    (void)stream;
    *status = setting("FAKE_CUDA_CAPTURING", 0);
    return SUCCESS;
}

#ifndef WITHOUT_LAUNCH
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared_bytes, void* stream, void** params, void** extra)
{
    NEED_CONTEXT;
    if (params || (intptr_t)extra[0] != 1 || (intptr_t)extra[2] != 2 || extra[4]) return INVALID_VALUE;
    if (!getenv("FAKE_CUDA_NOTES")) return SUCCESS;
    const unsigned char* bytes = extra[1];
    size_t count = *(size_t*)extra[3];
    char text[1024];
    int at = snprintf(text, sizeof text, "launch %s %ux%ux%u threads %ux%ux%u shared %u stream %zx context %zx params ",
                      (char*)function, x, y, z, threads, threads_y, threads_z, shared_bytes, (size_t)stream,
                      (size_t)contexts[depth - 1]);
    for (size_t i = 0; i < count && at < 1000; i++) at += snprintf(text + at, sizeof text - at, "%02x", bytes[i]);
    note(text);
    return SUCCESS;
}
#endif
