/* A compiler without a compiler, for tests. It opens its builtins, a second library, by their bare name. Its machine
 * code is a file of the right form for one kernel that takes 24 bytes of parameters; the text itself is in it as the
 * instructions.
 *   FAKE_NVRTC_VERSION  the major version; default 13
 * A program that contains "not C++" is refused. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

struct program {
    char* text;
    const char* log;
};

int nvrtcVersion(int* major, int* minor)
{
    const char* version = getenv("FAKE_NVRTC_VERSION");
    *major = version ? atoi(version) : 13;
    *minor = 0;
    return 0;
}

const char* nvrtcGetErrorString(int code) { return code == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR_OTHER"; }

int nvrtcCreateProgram(struct program** program, const char* text, const char* name, int headers,
                       const char* const* contents, const char* const* names)
{
    (void)name;
    for (int i = 0; i < headers; i++)
        if (!contents[i] || !names[i]) return 5;
    *program = calloc(1, sizeof **program);
    (*program)->text = strdup(text);
    (*program)->log = "";
    return 0;
}

int nvrtcDestroyProgram(struct program** program)
{
    free((*program)->text);
    free(*program);
    *program = NULL;
    return 0;
}

int nvrtcCompileProgram(struct program* program, int count, const char* const* options)
{
    for (int i = 0; i < count; i++)
        if (strncmp(options[i], "--", 2)) return 3;
    if (!dlopen("libnvrtc-builtins.so.13.0", RTLD_LAZY)) return 7;
    if (!strstr(program->text, "not C++")) return 0;
    program->log = "probe(2): error: that is not C++\n";
    return 6;
}

int nvrtcGetProgramLogSize(struct program* program, size_t* size)
{
    *size = strlen(program->log) + 1;
    return 0;
}

int nvrtcGetProgramLog(struct program* program, char* log)
{
    strcpy(log, program->log);
    return 0;
}

/* The file: header, section names, attributes, instructions, section table. */
static const char names[] = "\0.shstrtab\0.text.k\0.nv.info.k";
static const unsigned char attributes[] = {
    4, 0x2f, 8, 0, 1, 0, 0, 0, 40, 0, 0, 0, /* 40 registers */
    4, 0x05, 12, 0, 32, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, /* blocks of 32 threads */
    4, 0x11, 8, 0, 1, 0, 0, 0, 16, 0, 0, 0, /* 16 bytes of stack */
    3, 0x19, 24, 0,                         /* 24 bytes of parameters */
};
enum { HEADER = 64, SECTIONS = 4 };

static size_t layout(struct program* program, size_t* at)
{
    at[0] = HEADER;
    at[1] = at[0] + sizeof names;
    at[2] = at[1] + sizeof attributes;
    at[3] = at[2] + strlen(program->text);
    return at[3] + SECTIONS * 64;
}

int nvrtcGetCUBINSize(struct program* program, size_t* size)
{
    size_t at[4];
    *size = layout(program, at);
    return 0;
}

static void put(char* to, unsigned long long value, int bytes)
{
    for (int i = 0; i < bytes; i++) to[i] = (char)(value >> 8 * i);
}

static void section(char* table, int index, int name, int type, size_t offset, size_t size)
{
    put(table + index * 64, name, 4);
    put(table + index * 64 + 4, type, 4);
    put(table + index * 64 + 0x18, offset, 8);
    put(table + index * 64 + 0x20, size, 8);
}

int nvrtcGetCUBIN(struct program* program, char* cubin)
{
    size_t at[4];
    memset(cubin, 0, layout(program, at));
    memcpy(cubin, "\177ELF\2\1", 6);
    put(cubin + 0x28, at[3], 8);
    put(cubin + 0x3c, SECTIONS, 2);
    put(cubin + 0x3e, 1, 2);
    memcpy(cubin + at[0], names, sizeof names);
    memcpy(cubin + at[1], attributes, sizeof attributes);
    memcpy(cubin + at[2], program->text, strlen(program->text));
    section(cubin + at[3], 1, 1, 3, at[0], sizeof names);
    section(cubin + at[3], 2, 11, 1, at[2], strlen(program->text));
    section(cubin + at[3], 3, 19, 1, at[1], sizeof attributes);
    return 0;
}
