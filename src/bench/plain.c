/* See ckpt.h. The bytes are a pattern, which no disk can leave out, and every piece begins with the
 * round's stamp, so that a round that was left out shows. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "bench/ckpt.h"
#include "ckpt/folder.h"

enum { PIECE_BYTES = 8 << 20 };

static const char all_name[] = "by-all", one_name[] = "by-one";

static char *aligned(size_t bytes)
{
    char *memory = aligned_alloc(ZI_DISK_ALIGN, bytes);
    for (size_t i = 0; memory != NULL && i < bytes; i += sizeof(uint64_t)) {
        uint64_t word = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
        memcpy(memory + i, &word, sizeof word);
    }
    return memory;
}

zopt_status bench_plain_open(bench_crew *crew, const char *folder, uint64_t bytes, bench_plain *out)
{
    uint64_t world = (uint64_t)crew->world;
    uint64_t pieces = (bytes + PIECE_BYTES - 1) / PIECE_BYTES;
    *out = (bench_plain){.crew = crew, .folder = -1};
    out->bytes = (bytes + ZI_DISK_ALIGN - 1) / ZI_DISK_ALIGN * ZI_DISK_ALIGN;
    out->share_bytes = (size_t)((pieces + world - 1) / world * PIECE_BYTES);
    snprintf(out->path, sizeof out->path, "%s", folder);
    ZI_TRY(zi_folder_open(folder, 0, &out->folder));
    out->from = aligned(out->share_bytes);
    out->to = aligned(out->share_bytes);
    return out->from != NULL && out->to != NULL
               ? ZOPT_OK
               : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %zu bytes to copy", out->share_bytes);
}

void bench_plain_close(bench_plain *p)
{
    free(p->from);
    free(p->to);
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
    return remove_old(p, one_name);
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

zopt_status bench_plain_copy(bench_plain *p)
{
    uint64_t share = p->bytes / (uint64_t)p->crew->world;
    memcpy(p->to, p->from, (size_t)share);
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
    for (size_t at = 0; at + sizeof stamp <= share; at += PIECE_BYTES)
        *n_wrong += memcmp(p->to + at, &stamp, sizeof stamp) != 0;
    if (p->crew->rank != 0)
        return ZOPT_OK;
    ZI_TRY(check_file(p, all_name, stamp, n_wrong));
    return check_file(p, one_name, stamp, n_wrong);
}
