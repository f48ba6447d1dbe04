/* Preloaded: whatever opens, makes or renames a file below $SLOW_FOLDER waits for $SLOW_S seconds first. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void wait_for(const char *path) {
    const char *folder = getenv("SLOW_FOLDER"), *seconds = getenv("SLOW_S");
    if (folder && seconds && path && !strncmp(path, folder, strlen(folder))) usleep(1e6 * atof(seconds));
}

#define REAL(name, ...)                                   \
    static int (*real)(__VA_ARGS__);                      \
    if (!real) real = dlsym(RTLD_NEXT, name)

#define OPEN(name)                                        \
    int name(const char *path, int flags, ...) {          \
        REAL(#name, const char *, int, ...);              \
        va_list more;                                     \
        va_start(more, flags);                            \
        mode_t mode = va_arg(more, mode_t);               \
        va_end(more);                                     \
        wait_for(path);                                   \
        return real(path, flags, mode);                   \
    }
OPEN(open)
OPEN(open64)

#define FOPEN(name)                                       \
    FILE *name(const char *path, const char *mode) {      \
        static FILE *(*real)(const char *, const char *); \
        if (!real) real = dlsym(RTLD_NEXT, #name);        \
        wait_for(path);                                   \
        return real(path, mode);                          \
    }
FOPEN(fopen)
FOPEN(fopen64)

int rename(const char *from, const char *to) {
    REAL("rename", const char *, const char *);
    wait_for(to);
    return real(from, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL("mkdir", const char *, mode_t);
    wait_for(path);
    return real(path, mode);
}
