/* A load: rank 0 reads what describes a checkpoint and hands it to all, all find the same
 * differences, then each reads and verifies its pieces and sends them to the ranks that own them.
 * Until the data are read nothing has changed; from then on the handle is whole again only when a
 * checkpoint, this one or an older one, has been read to its end. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "ckpt/parts.h"

/* One checkpoint under examination. */
typedef struct candidate {
    uint64_t step;
    char path[ZI_PATH_BYTES];
    int folder;
    zi_bundle bundle;
    zi_progress progress;
    int touched; /* 1: the handle's arrays hold parts of it */
} candidate;

static void drop(candidate *c)
{
    if (c->folder >= 0)
        close(c->folder);
    zi_bundle_free(&c->bundle);
    free(c->progress.group);
    c->progress.group = NULL;
    c->folder = -1;
}

/* ------------------------------------------------------------------ what describes it -------- */

static zopt_status open_step(const char *root, candidate *c)
{
    char name[ZI_STEP_NAME_BYTES];
    int folder;
    zi_step_name(c->step, name);
    snprintf(c->path, sizeof c->path, "%.*s/%s", (int)(sizeof c->path - sizeof name - 1), root,
             name);
    ZI_TRY(zi_folder_open(root, ZI_FOLDER_READ, &folder));
    zopt_status status = zi_folder_open_below(folder, root, name, ZI_FOLDER_READ, &c->folder);
    close(folder);
    return status;
}

/* Every rank gets a copy of rank 0's. */
static zopt_status share(zi_comm *comm, char **blob, size_t *bytes)
{
    int64_t n = (int64_t)*bytes;
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MAX, &n, 1));
    *bytes = (size_t)n;
    if (comm->rank != 0)
        *blob = malloc(*bytes);
    ZI_TRY(zi_comm_agree(
        comm, *blob != NULL
                  ? ZOPT_OK
                  : ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %zu bytes of headers", *bytes)));
    return comm->ops->broadcast(comm, 0, *blob, *bytes);
}

static zopt_status decode(const char *blob, size_t bytes, candidate *c)
{
    ZI_TRY(zi_bundle_decode(blob, bytes, c->path, &c->bundle));
    return zi_bundle_check_step(&c->bundle, c->step, c->path);
}

static zopt_status examine(zi_comm *comm, const char *root, candidate *c)
{
    char *blob = NULL;
    size_t bytes = 0;
    zopt_status mine = open_step(root, c);
    if (mine == ZOPT_OK && comm->rank == 0)
        mine = zi_bundle_load(c->folder, c->path, &blob, &bytes);
    zopt_status status = zi_comm_agree(comm, mine);
    if (status == ZOPT_OK)
        status = share(comm, &blob, &bytes);
    if (status == ZOPT_OK)
        status = zi_comm_agree(comm, decode(blob, bytes, c));
    free(blob);
    return status;
}

/* ------------------------------------------------------------------ whether it fits ---------- */

static void tell(void *arg, const char *text)
{
    zi_ckpt_warn(arg, "%s", text);
}

typedef struct config_differences {
    const zi_ckpt *ckpt;
    size_t n, n_lists; /* of these, lists of a group's tensors */
    char first[400];
} config_differences;

/* "group.0.tensors" */
static int lists_tensors(const char *key)
{
    const char *dot = strrchr(key, '.');
    return strncmp(key, "group.", 6) == 0 && strcmp(dot, ".tensors") == 0;
}

static void differ(config_differences *d, const char *key, const char *theirs, const char *ours)
{
    char text[sizeof d->first];
    snprintf(text, sizeof text, "%.100s: %.120s in the checkpoint, %.120s in this run", key,
             theirs ? theirs : "nothing", ours ? ours : "nothing");
    if (d->n++ == 0)
        memcpy(d->first, text, sizeof text);
    d->n_lists += (size_t)lists_tensors(key);
    zi_ckpt_warn(d->ckpt, "%s", text);
}

static void compare_config(const zi_ckpt *ckpt, const candidate *c, config_differences *d)
{
    const zi_tensorfile *head = zi_bundle_head(&c->bundle, ZI_STEM_OPTIMIZER);
    size_t prefix = strlen(ZI_CONFIG_PREFIX);
    for (uint32_t i = 0; i < head->n_texts; i++) {
        const char *key = head->text[i].key, *theirs = head->text[i].value;
        if (strncmp(key, ZI_CONFIG_PREFIX, prefix) != 0)
            continue;
        const char *ours = zi_texts_get(&ckpt->rows, key + prefix);
        if (ours == NULL || strcmp(ours, theirs) != 0)
            differ(d, key + prefix, theirs, ours);
    }
    for (uint32_t i = 0; i < ckpt->rows.n; i++) {
        char key[512];
        snprintf(key, sizeof key, ZI_CONFIG_PREFIX "%s", ckpt->rows.text[i].key);
        if (zi_tensorfile_text(head, key) == NULL)
            differ(d, ckpt->rows.text[i].key, NULL, ckpt->rows.text[i].value);
    }
}

static zopt_status fail_config(const candidate *c, const config_differences *d)
{
    return ZI_FAIL(ZOPT_ERR_CONFIG,
                   "%s: made with another configuration, %zu settings differ: %s%s", c->path, d->n,
                   d->first, d->n > 1 ? ", ..." : "");
}

/* Another setting, of the optimizer or the model, explains tensors that differ; a group's list of
 * tensors is explained by them. */
static zopt_status check_fit(const zi_ckpt *ckpt, candidate *c)
{
    const zi_teller teller = {tell, (void *)ckpt};
    config_differences d = {.ckpt = ckpt};
    compare_config(ckpt, c, &d);
    if (d.n > d.n_lists && !ckpt->config.force)
        return fail_config(c, &d);
    ZI_TRY(zi_contents_match(ckpt->z, &c->bundle, c->path, &teller));
    if (d.n > 0 && !ckpt->config.force)
        return fail_config(c, &d);
    const zi_tensorfile *head = zi_bundle_head(&c->bundle, ZI_STEM_OPTIMIZER);
    ZI_TRY(zi_progress_read(ckpt->z, head, c->path, &c->progress));
    zi_progress_keep_own(ckpt->z, &ckpt->rows, head, &c->progress);
    return ZOPT_OK;
}

/* ------------------------------------------------------------------ its data ----------------- */

typedef struct reader {
    const candidate *c;
    zi_disk_file file;
    uint32_t file_index; /* of the open one */
    char shown[ZI_PATH_BYTES];
} reader;

static zopt_status read_piece(reader *r, uint64_t index, char *data)
{
    zi_bundle_piece piece = zi_bundle_piece_at(&r->c->bundle, index);
    const zi_bundle_file *file = &r->c->bundle.file[piece.file];
    if (piece.run.bytes == 0)
        return ZOPT_OK;
    if (r->file.fd < 0 || r->file_index != piece.file) {
        (void)zi_disk_close(&r->file);
        snprintf(r->shown, sizeof r->shown, "%.*s/%s",
                 (int)(sizeof r->shown - ZI_FILE_NAME_BYTES - 1), r->c->path, file->name);
        ZI_TRY(zi_disk_open(r->c->folder, file->name, r->shown, ZI_DISK_READ, &r->file));
        r->file_index = piece.file;
    }
    ZI_TRY(zi_disk_read(&r->file, data, piece.run.bytes, piece.run.at));
    return zi_seal_check_piece(&file->head, piece.index, data, r->shown);
}

/* Ranks agree on each round before its bytes go anywhere. */
static zopt_status read_rounds(zi_shuffle *shuffle, candidate *c, char *data)
{
    zi_comm *comm = shuffle->z->comm;
    reader r = {.c = c, .file = {.fd = -1, .direct = -1}};
    zopt_status status = ZOPT_OK;
    for (uint64_t first = 0; first < c->bundle.n_pieces && status == ZOPT_OK;
         first += (uint64_t)comm->world) {
        uint64_t own = first + (uint64_t)comm->rank;
        zopt_status mine = own < c->bundle.n_pieces ? read_piece(&r, own, data) : ZOPT_OK;
        status = zi_comm_agree(comm, mine);
        if (status == ZOPT_OK) {
            c->touched = 1;
            status = zi_shuffle_round(shuffle, first, ZI_FROM_FILE, data);
        }
    }
    (void)zi_disk_close(&r.file);
    return status;
}

zopt_status zi_load_room_create(const zi_ckpt *ckpt, size_t piece_bytes, zi_load_room *out)
{
    zi_zero *z = ckpt->z;
    const zi_symmetric *window = ckpt->pieces.memory.bytes > 0 ? &ckpt->pieces.memory : NULL;
    *out = (zi_load_room){.bytes = piece_bytes + ZI_DISK_ALIGN, .shuffle = {.z = z}};
    zopt_status status = zi_mem_array(z->mem, ZI_MEM_CKPT, out->bytes, &out->memory);
    if (status == ZOPT_OK)
        return zi_shuffle_create(z, piece_bytes, window, &out->shuffle);
    out->bytes = 0;
    return status;
}

void zi_load_room_free(const zi_ckpt *ckpt, zi_load_room *room)
{
    zi_shuffle_destroy(&room->shuffle);
    zi_mem_free_array(ckpt->z->mem, ZI_MEM_CKPT, room->memory, room->bytes);
}

static zopt_status read_data(zi_ckpt *ckpt, candidate *c)
{
    zi_load_room room;
    size_t piece_bytes = zi_bundle_piece_bytes(&c->bundle);
    assert(piece_bytes <= ckpt->most_piece_bytes); /* its tensors are the handle's */
    zopt_status mine = zi_load_room_create(ckpt, piece_bytes, &room);
    room.shuffle.bundle = &c->bundle;
    zopt_status status = zi_comm_agree(ckpt->z->comm, mine);
    if (status == ZOPT_OK)
        status =
            read_rounds(&room.shuffle, c,
                        room.memory + (ZI_DISK_ALIGN - (uintptr_t)room.memory % ZI_DISK_ALIGN));
    zi_load_room_free(ckpt, &room);
    return status;
}

static zopt_status take_notes(zi_ckpt *ckpt, const candidate *c)
{
    const zi_tensorfile *head = zi_bundle_head(&c->bundle, ZI_STEM_OPTIMIZER);
    size_t prefix = strlen(ZI_NOTE_PREFIX);
    zi_texts_free(&ckpt->notes);
    for (uint32_t i = 0; i < head->n_texts; i++)
        if (strncmp(head->text[i].key, ZI_NOTE_PREFIX, prefix) == 0)
            ZI_TRY(
                zi_texts_add(&ckpt->notes, head->text[i].key + prefix, "%s", head->text[i].value));
    return ZOPT_OK;
}

static zopt_status stand_there(zi_ckpt *ckpt, const candidate *c)
{
    zi_progress_apply(ckpt->z, &c->progress);
    ZI_TRY(zi_comm_agree(ckpt->z->comm, take_notes(ckpt, c)));
    ckpt->validated = c->step;
    return zi_params_from_master(ckpt->z);
}

/* ------------------------------------------------------------------ which one ---------------- */

/* Load one. *damaged = 1: it is not whole, and an older one may be. */
static zopt_status try_one(zi_ckpt *ckpt, const char *root, candidate *c, int *damaged)
{
    zi_comm *comm = ckpt->z->comm;
    *damaged = 1;
    ZI_TRY(examine(comm, root, c));
    *damaged = 0;
    ZI_TRY(zi_comm_agree(comm, check_fit(ckpt, c)));
    *damaged = 1;
    ZI_TRY(read_data(ckpt, c));
    *damaged = 0;
    zopt_status status = stand_there(ckpt, c);
    c->touched = status != ZOPT_OK;
    return status;
}

/* Rank 0's list for all ranks, newest first. */
static zopt_status list_steps(const zi_ckpt *ckpt, const char *root, uint64_t **steps, size_t *n)
{
    zi_comm *comm = ckpt->z->comm;
    zopt_status mine = ZOPT_OK;
    uint64_t latest = 0;
    int folder;
    *steps = NULL;
    *n = 0;
    if (comm->rank == 0 && (mine = zi_folder_open(root, ZI_FOLDER_READ, &folder)) == ZOPT_OK) {
        mine = zi_folder_scan(folder, root, steps, n);
        if (mine == ZOPT_OK && *n > 0 && zi_folder_latest(folder, root, &latest) != ZOPT_OK)
            zi_ckpt_warn(ckpt, "%s; going by what is there", zopt_last_error());
        else if (mine == ZOPT_OK && *n > 0 && latest != (*steps)[0])
            zi_ckpt_warn(ckpt, "%s/latest names step %" PRIu64 ", but the newest is %" PRIu64, root,
                         latest, (*steps)[0]);
        close(folder);
    }
    zopt_status status = zi_comm_agree(comm, mine);
    char *blob = (char *)*steps;
    size_t bytes = *n * sizeof **steps;
    int64_t any = (int64_t)bytes;
    if (status == ZOPT_OK)
        status = comm->ops->all_reduce(comm, ZI_MAX, &any, 1);
    if (status == ZOPT_OK && any > 0)
        status = share(comm, &blob, &bytes);
    *steps = (uint64_t *)(void *)blob;
    *n = bytes / sizeof **steps;
    if (status != ZOPT_OK) {
        free(*steps);
        *steps = NULL;
        *n = 0;
    }
    return status;
}

/* From the newest on, the first that is whole. What does not fit this run is no reason to take an
 * older one. */
static zopt_status load_newest(zi_ckpt *ckpt, const char *root, const uint64_t *steps, size_t n,
                               uint64_t *step)
{
    zopt_status status = ZOPT_OK, newest = ZOPT_OK;
    char why[800] = "";
    int touched = 0, damaged = 1;
    for (size_t i = 0; i < n && damaged; i++) {
        candidate c = {.step = steps[i], .folder = -1}; /* NOLINT: n of them */
        status = try_one(ckpt, root, &c, &damaged);
        damaged = damaged && (status == ZOPT_ERR_DATA || status == ZOPT_ERR_READ);
        touched = (touched || c.touched) && status != ZOPT_OK;
        if (status != ZOPT_OK && newest == ZOPT_OK) {
            newest = status;
            snprintf(why, sizeof why, "%s", zopt_last_error());
        }
        if (damaged)
            zi_ckpt_warn(ckpt, "step %" PRIu64 " CANNOT BE LOADED: %s; %s", steps[i],
                         zopt_last_error(),
                         i + 1 < n ? "trying the one before it" : "there is no other");
        *step = c.step;
        drop(&c);
    }
    ckpt->z->failed |= touched;
    if (!damaged)
        return status;
    return n == 1 ? ZI_FAIL(newest, "%s", why)
                  : ZI_FAIL(newest, "%s: none of %zu checkpoints can be loaded: %s", root, n, why);
}

zopt_status zi_ckpt_load(zi_ckpt *ckpt, const char *path, uint64_t *step)
{
    char root[ZI_PATH_BYTES];
    uint64_t one, *steps;
    size_t n;
    ZI_TRY(zi_ckpt_wait(ckpt));
    if (zi_step_split(path, root, &one))
        return load_newest(ckpt, root, &one, 1, step);
    ZI_TRY(list_steps(ckpt, root, &steps, &n));
    zopt_status status = n > 0 ? load_newest(ckpt, root, steps, n, step) : zi_folder_none(root);
    free(steps);
    return status;
}

zopt_status zi_ckpt_resume(zi_ckpt *ckpt, const char *path, uint64_t *step)
{
    uint64_t *steps;
    size_t n;
    *step = UINT64_MAX;
    ZI_TRY(zi_ckpt_wait(ckpt));
    ZI_TRY(zi_ckpt_claim(ckpt, path));
    ZI_TRY(list_steps(ckpt, path, &steps, &n));
    zopt_status status = n > 0 ? load_newest(ckpt, path, steps, n, step) : ZOPT_OK;
    free(steps);
    return status;
}
