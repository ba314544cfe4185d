/* See ckpt.h. The bytes are a pattern, which no disk can leave out, and every piece begins with the
 * round's stamp, so that a round that was left out shows. */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/status.h"
#include "bench/ckpt.h"
#include "ckpt/folder.h"

enum { PIECE_BYTES = 8 << 20 };

static const char all_name[] = "by-all", one_name[] = "by-one", dd_name[] = "by-dd";

/* Large pages: a disk takes twice as much of them at once. */
static zopt_status make_memory(bench_plain *p)
{
    enum { LARGE_PAGE = 2 << 20 };
    p->memory = zi_aligned_zalloc(p->share_bytes + LARGE_PAGE);
    if (p->memory == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %zu bytes to copy", p->share_bytes);
    p->from = p->memory + (size_t)(-(uintptr_t)p->memory % LARGE_PAGE);
    for (size_t i = 0; i < p->share_bytes; i += sizeof(uint64_t)) {
        uint64_t word = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
        memcpy(p->from + i, &word, sizeof word);
    }
    return ZOPT_OK;
}

zopt_status bench_plain_open(bench_crew *crew, const char *folder, uint64_t bytes, bench_plain *out)
{
    uint64_t world = (uint64_t)crew->world;
    uint64_t pieces = (bytes + PIECE_BYTES - 1) / PIECE_BYTES;
    *out = (bench_plain){.crew = crew, .folder = -1};
    out->bytes = (bytes + ZI_DISK_ALIGN - 1) / ZI_DISK_ALIGN * ZI_DISK_ALIGN;
    out->share_bytes = (size_t)((pieces + world - 1) / world * PIECE_BYTES);
    snprintf(out->path, sizeof out->path, "%s", folder);
    zopt_status status = zi_folder_open(folder, ZI_FOLDER_READ, &out->folder);
    if (status == ZOPT_OK)
        status = make_memory(out);
    ZI_TRY(zi_comm_agree(crew->comm, status));
    return bench_shared_open(crew, out->share_bytes, &out->to);
}

void bench_plain_close(bench_plain *p)
{
    free(p->memory);
    if (p->crew != NULL)
        bench_shared_close(p->crew, &p->to);
    if (p->crew != NULL && p->folder >= 0)
        close(p->folder);
    *p = (bench_plain){.folder = -1};
}

static zopt_status remove_old(const bench_plain *p, const char *name)
{
    if (p->crew->rank != 0 || unlinkat(p->folder, name, 0) == 0 || errno == ENOENT)
        return ZOPT_OK;
    return zi_fail_errno(ZOPT_ERR_WRITE, p->path, "cannot remove what an earlier round wrote");
}

zopt_status bench_plain_prepare(bench_plain *p, uint64_t stamp)
{
    p->stamp = stamp;
    for (size_t at = 0; at < p->share_bytes; at += PIECE_BYTES)
        memcpy(p->from + at, &stamp, sizeof stamp);
    ZI_TRY(remove_old(p, all_name));
    ZI_TRY(remove_old(p, one_name));
    return remove_old(p, dd_name);
}

/* Pieces first, first + stride, ... of the file from this rank's memory, and to the disk. */
static zopt_status write_pieces(bench_plain *p, const char *name, uint64_t first, uint64_t stride)
{
    zi_disk_file file;
    zopt_status status = ZOPT_OK;
    size_t from = 0;
    ZI_TRY(zi_disk_open(p->folder, name, p->path, ZI_DISK_WRITE, &file));
    for (uint64_t at = first * PIECE_BYTES; at < p->bytes && status == ZOPT_OK;
         at += stride * PIECE_BYTES) {
        uint64_t left = p->bytes - at;
        status = zi_disk_write(&file, p->from + from, left < PIECE_BYTES ? left : PIECE_BYTES, at);
        from = (from + PIECE_BYTES) % p->share_bytes;
    }
    p->direct = file.direct >= 0;
    if (status == ZOPT_OK)
        status = zi_disk_sync(&file);
    zopt_status closed = zi_disk_close(&file);
    return status != ZOPT_OK ? status : closed;
}

zopt_status bench_plain_write_all(bench_plain *p)
{
    zi_comm *comm = p->crew->comm;
    zopt_status created =
        comm->rank == 0 ? zi_disk_create(p->folder, all_name, p->path, ZI_DISK_PRIVATE, p->bytes)
                        : ZOPT_OK;
    ZI_TRY(zi_comm_agree(comm, created));
    return write_pieces(p, all_name, (uint64_t)comm->rank, (uint64_t)comm->world);
}

zopt_status bench_plain_write_one(bench_plain *p)
{
    if (p->crew->rank != 0)
        return ZOPT_OK;
    ZI_TRY(zi_disk_create(p->folder, one_name, p->path, ZI_DISK_PRIVATE, 0));
    return write_pieces(p, one_name, 0, 1);
}

zopt_status bench_plain_dd(bench_plain *p)
{
    char to[ZI_PATH_BYTES + 16], count[32];
    char *words[] = {"dd",  "if=/dev/zero",      to,           "bs=8M",       "oflag=direct",
                     count, "iflag=count_bytes", "conv=fsync", "status=none", NULL};
    pid_t child;
    int state;
    if (p->crew->rank != 0 || !p->direct)
        return ZOPT_OK;
    snprintf(to, sizeof to, "of=%s/%s", p->path, dd_name);
    snprintf(count, sizeof count, "count=%llu", (unsigned long long)p->bytes);
    int failed = posix_spawnp(&child, words[0], NULL, NULL, words, environ);
    if (failed)
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "cannot start dd, which a save is compared with: %s; it is in coreutils",
                       strerror(failed));
    while (waitpid(child, &state, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(state) && WEXITSTATUS(state) == 0
               ? ZOPT_OK
               : ZI_FAIL(ZOPT_ERR_WRITE, "dd %s %s oflag=direct conv=fsync has failed", to, count);
}

zopt_status bench_plain_copy(bench_plain *p)
{
    uint64_t share = p->bytes / (uint64_t)p->crew->world;
    memcpy(p->to.at[p->crew->rank], p->from, (size_t)share);
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ check -------------------- */

static zopt_status check_file(const bench_plain *p, const char *name, uint64_t stamp,
                              uint64_t *n_wrong)
{
    zi_disk_file file;
    uint64_t bytes = 0, got;
    if (faccessat(p->folder, name, F_OK, 0) != 0) {
        ++*n_wrong;
        return ZOPT_OK;
    }
    ZI_TRY(zi_disk_open(p->folder, name, p->path, ZI_DISK_READ, &file));
    zopt_status status = zi_disk_size(&file, &bytes);
    *n_wrong += bytes != p->bytes;
    for (uint64_t at = 0; at + sizeof got <= bytes && status == ZOPT_OK; at += PIECE_BYTES) {
        status = zi_disk_read(&file, &got, sizeof got, at);
        *n_wrong += got != stamp;
    }
    (void)zi_disk_close(&file);
    return status;
}

zopt_status bench_plain_check(const bench_plain *p, uint64_t stamp, uint64_t *n_wrong)
{
    size_t share = (size_t)(p->bytes / (uint64_t)p->crew->world);
    const char *copied = p->to.at[p->crew->rank];
    for (size_t at = 0; at + sizeof stamp <= share; at += PIECE_BYTES)
        *n_wrong += memcmp(copied + at, &stamp, sizeof stamp) != 0;
    if (p->crew->rank != 0)
        return ZOPT_OK;
    ZI_TRY(check_file(p, all_name, stamp, n_wrong));
    ZI_TRY(check_file(p, one_name, stamp, n_wrong));
    return p->direct ? check_file(p, dd_name, 0, n_wrong) : ZOPT_OK;
}
