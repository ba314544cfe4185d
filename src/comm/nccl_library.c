/* NCCL by a table of function pointers: zopt runs where NCCL is not installed, and never brings a
 * second one into a process that has one, as under PyTorch. Next: nccl.c. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/nccl.h"

static const char soname[] = "libnccl.so.2";

static struct {
    pthread_once_t once;
    void *handle;
    int was_loaded;
    int version;
    zi_nccl_calls calls;
    char missing[256]; /* "": it is there */
} library = {.once = PTHREAD_ONCE_INIT};

/* 0: it is not there. */
static int find(const char *name, void *out)
{
    void *symbol = dlsym(library.handle, name);
    memcpy(out, &symbol, sizeof symbol);
    return symbol != NULL;
}

const char *zi_nccl_version_text(int version, char text[32])
{
    int per_major = version < 10000 ? 1000 : 10000;
    snprintf(text, 32, "%d.%d.%d", version / per_major, version % per_major / 100, version % 100);
    return text;
}

static const struct {
    const char *name;
    size_t at;
} needed[] = {
#define ROW(call) {"nccl" #call, offsetof(zi_nccl_calls, call)},
    ZI_NCCL_NEEDED(ROW)
#undef ROW
};

static void open_library(void)
{
    const char *named = getenv("ZOPT_NCCL_LIBRARY");
    library.handle = dlopen(soname, RTLD_LAZY | RTLD_NOLOAD);
    library.was_loaded = library.handle != NULL;
    if (library.handle == NULL)
        library.handle = dlopen(named != NULL ? named : soname, RTLD_LAZY | RTLD_LOCAL);
    if (library.handle == NULL)
        snprintf(library.missing, sizeof library.missing,
                 "%s; install NCCL, or set ZOPT_NCCL_LIBRARY", dlerror());
}

/* The version first: an older library lacks the rest. */
static void load(void)
{
    char have[32], least[32];
    open_library();
    if (library.handle == NULL)
        return;
    if (!find("ncclGetVersion", &library.calls.GetVersion) ||
        library.calls.GetVersion(&library.version) != ncclSuccess ||
        library.version < ZI_NCCL_LEAST) {
        snprintf(library.missing, sizeof library.missing,
                 "NCCL %s is too old: %s or newer is needed, for communicators that do not block",
                 zi_nccl_version_text(library.version, have),
                 zi_nccl_version_text(ZI_NCCL_LEAST, least));
        return;
    }
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
        if (!find(needed[i].name, (char *)&library.calls + needed[i].at))
            snprintf(library.missing, sizeof library.missing, "%s has no %s", soname,
                     needed[i].name);
    find("ncclCommSplit", &library.calls.CommSplit);
    find("ncclCommRegister", &library.calls.CommRegister);
    find("ncclCommDeregister", &library.calls.CommDeregister);
    find("ncclMemAlloc", &library.calls.MemAlloc);
    find("ncclMemFree", &library.calls.MemFree);
    if (library.version < ZI_NCCL_WINDOWS)
        return;
    find("ncclCommWindowRegister", &library.calls.CommWindowRegister);
    find("ncclCommWindowDeregister", &library.calls.CommWindowDeregister);
    find("ncclAlltoAll", &library.calls.AlltoAll);
    find("ncclDevCommCreate", &library.calls.DevCommCreate);
    find("ncclDevCommDestroy", &library.calls.DevCommDestroy);
}

const char *zi_nccl_missing(void)
{
    const char *mpi = zi_mpi_missing();
    if (mpi != NULL)
        return mpi;
    pthread_once(&library.once, load);
    return library.missing[0] != '\0' ? library.missing : NULL;
}

const zi_nccl_calls *zi_nccl(void)
{
    pthread_once(&library.once, load);
    return &library.calls;
}

int zi_nccl_version(void)
{
    return library.version;
}

int zi_nccl_was_loaded(void)
{
    return library.was_loaded;
}

/* What newer NCCLs have, from this version on. */
static const struct {
    const char *name, *symbol;
    int since;
    const char *note, *without;
} features[] = {
    {"split", "ncclCommSplit", 0, "a caller's communicator can be split", "2.18 has it"},
    {"user buffers", "ncclCommRegister", 0, "gradients, parameters and staging are registered",
     "2.19 has them"},
    {"symmetric windows", "ncclCommWindowRegister", ZI_NCCL_WINDOWS,
     "used with comm.nccl_windows=on, where the GPUs have them",
     "2.28 is needed, which tells where the GPUs have none"},
    {"alltoall", "ncclAlltoAll", ZI_NCCL_WINDOWS,
     "used with comm.nccl_windows; without, grouped sends and receives do the same",
     "grouped sends and receives do the same"},
    {"copy engines", "ncclAlltoAll", ZI_NCCL_WINDOWS,
     "used with comm.nccl_windows=copy-engines, for what is not summed", "2.28 has them"},
};

void zi_nccl_describe(void (*row)(void *arg, const char *kind, const char *name, int usable,
                                  const char *note),
                      void *arg)
{
    char note[160], have[32], built[32];
    if (zi_nccl_missing() != NULL)
        return;
    snprintf(note, sizeof note, "NCCL %s%s; built with the header of %s",
             zi_nccl_version_text(library.version, have),
             library.was_loaded ? ", which the process had" : "",
             zi_nccl_version_text(NCCL_VERSION_CODE, built));
    row(arg, "nccl", "library", 1, note);
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++) {
        void *symbol;
        int there = find(features[i].symbol, &symbol) && library.version >= features[i].since;
        snprintf(note, sizeof note, "%s%s",
                 there ? features[i].note : "not in this NCCL: ", there ? "" : features[i].without);
        row(arg, "nccl", features[i].name, there, note);
    }
}
