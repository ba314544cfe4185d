/* A save, up to where all bytes are with the ranks that write them; commit.c ends it. Nothing of
 * the training state changes, whatever fails. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/status.h"
#include "ckpt/parts.h"

/* ------------------------------------------------------------------ what is written ---------- */

static zopt_status add_all(zi_texts *texts, const char *prefix, const zi_texts *more)
{
    for (uint32_t i = 0; i < more->n; i++) {
        char *key = NULL;
        if (asprintf(&key, "%s%s", prefix, more->text[i].key) < 0)
            return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a text of a checkpoint");
        zopt_status status = zi_texts_add(texts, key, "%s", more->text[i].value);
        free(key);
        ZI_TRY(status);
    }
    return ZOPT_OK;
}

static zopt_status write_texts(const zi_ckpt *ckpt, zi_save *save)
{
    for (int s = 0; s < ZI_N_STEMS; s++) {
        zi_texts *texts = &save->texts[s];
        ZI_TRY(zi_texts_add(texts, "format", "pt"));
        ZI_TRY(zi_texts_add(texts, "zopt.format", "1"));
        ZI_TRY(zi_texts_add(texts, "zopt.step", "%" PRIu64, save->step));
        ZI_TRY(zi_texts_add(texts, "zopt.config_xxh3", "%016" PRIx64, zi_texts_hash(&ckpt->rows)));
    }
    zi_texts *texts = &save->texts[ZI_STEM_OPTIMIZER];
    ZI_TRY(zi_progress_write(ckpt->z, texts));
    ZI_TRY(add_all(texts, ZI_CONFIG_PREFIX, &ckpt->rows));
    return add_all(texts, ZI_NOTE_PREFIX, &ckpt->notes);
}

static zopt_status describe(const zi_ckpt *ckpt, zi_save *save)
{
    ZI_TRY(write_texts(ckpt, save));
    const zi_contents contents = {
        .model = ZI_ARRAY_MASTER,
        .optimizer = 1,
        .sealed = 1,
        .part_bytes = ckpt->config.part_bytes,
        .texts = {&save->texts[ZI_STEM_MODEL], &save->texts[ZI_STEM_OPTIMIZER]}};
    ZI_TRY(zi_contents_describe(ckpt->z, &contents, &save->bundle));
    const zi_bundle *bundle = &save->bundle;
    save->name = calloc(bundle->n_files, sizeof *save->name);
    save->hash = calloc(bundle->n_pieces, sizeof *save->hash);
    if (save->name == NULL || save->hash == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %" PRIu64 " checksums", bundle->n_pieces);
    for (uint32_t f = 0; f < bundle->n_files; f++)
        save->name[f] = bundle->file[f].name;
    return ZOPT_OK;
}

static uint64_t hash_headers(const zi_bundle *bundle)
{
    uint64_t hash = 0;
    for (uint32_t f = 0; f < bundle->n_files; f++)
        hash = XXH3_64bits_withSeed(bundle->file[f].header, bundle->file[f].head.data_at, hash);
    return hash;
}

/* ------------------------------------------------------------------ where it is written ------ */

static zopt_status create_files(const zi_ckpt *ckpt, zi_save *save)
{
    ZI_TRY(zi_folder_begin(ckpt->folder, ckpt->path, save->step, &save->tmp));
    for (uint32_t f = 0; f < save->bundle.n_files; f++) {
        char shown[ZI_PATH_BYTES];
        snprintf(shown, sizeof shown, "%.*s/%s", (int)(sizeof shown - ZI_FILE_NAME_BYTES - 1),
                 save->shown, save->name[f]);
        ZI_TRY(zi_disk_create(save->tmp, save->name[f], shown, ZI_DISK_PRIVATE,
                              save->bundle.file[f].head.bytes));
    }
    return ZOPT_OK;
}

static zopt_status open_folder(const zi_ckpt *ckpt, zi_save *save)
{
    char name[ZI_STEP_NAME_BYTES];
    zi_step_tmp_name(save->step, name);
    return zi_folder_open_below(ckpt->folder, ckpt->path, name, ZI_FOLDER_WRITE, &save->tmp);
}

static zopt_status begin(zi_ckpt *ckpt, zi_save *save)
{
    zi_comm *comm = ckpt->z->comm;
    int first = comm->rank == 0;
    char name[ZI_STEP_NAME_BYTES];
    zi_step_tmp_name(save->step, name);
    snprintf(save->shown, sizeof save->shown, "%.*s/%s",
             (int)(sizeof save->shown - sizeof name - 1), ckpt->path, name);
    ZI_TRY(zi_comm_agree(comm, describe(ckpt, save)));
    ZI_TRY(zi_same_everywhere(comm, hash_headers(&save->bundle),
                              "what to save: give all of them the same notes"));
    ZI_TRY(zi_comm_agree(comm, first ? create_files(ckpt, save) : ZOPT_OK));
    ZI_TRY(zi_comm_agree(comm, first ? ZOPT_OK : open_folder(ckpt, save)));
    zopt_status mine = ZOPT_OK;
    if (ckpt->config.async) {
        save->writer = ckpt->writer;
        save->shuffle = ckpt->shuffle;
    } else {
        mine = zi_save_buffers(ckpt->z, 0, &save->bundle, zi_pieces_for(ckpt, &save->bundle),
                               &save->writer, &save->shuffle);
    }
    save->shuffle.bundle = &save->bundle;
    return zi_comm_agree(comm, mine);
}

/* ------------------------------------------------------------------ the bytes ---------------- */

zopt_status zi_send_pieces(const zi_pieces *pieces, int at_once, zi_shuffle *shuffle,
                           zi_writer *writer, uint64_t *hash)
{
    const zi_bundle *bundle = shuffle->bundle;
    zi_comm *comm = shuffle->z->comm;
    shuffle->past_caches = at_once && shuffle->z->config.home->on_host;
    if (pieces != NULL)
        return zi_pieces_store(pieces, shuffle, writer, at_once, hash);
    for (uint64_t first = 0; first < bundle->n_pieces; first += (uint64_t)comm->world) {
        uint64_t own = first + (uint64_t)comm->rank;
        int writes = own < bundle->n_pieces;
        ZI_TRY(zi_meet_room(comm, writes ? writer : NULL));
        char *buffer = writes ? zi_writer_take(writer) : NULL;
        ZI_TRY(zi_shuffle_round(shuffle, first, ZI_TO_FILE, buffer));
        if (!writes)
            continue;
        zi_bundle_piece piece = zi_bundle_piece_at(bundle, own);
        zi_writer_put(writer, (zi_write){piece.file, piece.run.at, piece.run.bytes, &hash[own]});
    }
    zi_writer_end(writer);
    return ZOPT_OK;
}

static void release(zi_ckpt *ckpt, zi_save *save)
{
    if (!ckpt->config.async) {
        zi_writer_destroy(save->writer);
        if (save->shuffle.z != NULL)
            zi_shuffle_destroy(&save->shuffle);
    }
    if (save->tmp >= 0)
        close(save->tmp);
    zi_bundle_free(&save->bundle);
    for (int s = 0; s < ZI_N_STEMS; s++)
        zi_texts_free(&save->texts[s]);
    free(save->name);
    free(save->hash);
    *save = (zi_save){.tmp = -1};
}

/* The error that it was given up for, not one that came of giving it up: the first rank removes the
 * files, and others' threads may miss them then. Nobody returns before they are gone: a launcher
 * ends the first rank when another leaves. */
static zopt_status abandon(zi_ckpt *ckpt, zi_save *save, zopt_status status)
{
    char why[1024];
    uint64_t step = save->step;
    snprintf(why, sizeof why, "%s", zopt_last_error());
    (void)zi_background_finish(&save->hashing);
    (void)zi_background_finish(&save->ending);
    if (save->writer != NULL)
        (void)zi_writer_finish(save->writer);
    release(ckpt, save);
    if (ckpt->z->comm->rank == 0)
        zi_folder_abandon(ckpt->folder, step);
    if (!ckpt->z->comm->broken)
        (void)zi_comm_agree(ckpt->z->comm, ZOPT_OK);
    return ZI_FAIL(status, "%s", why);
}

/* A save that its caller waits for is written while pieces come; one that is waited for only until
 * they are here leaves the cores to their copies. Long notes may have made more pieces than there
 * are buffers: then it, too, is written as they come. */
static zopt_status send_and_write(zi_ckpt *ckpt, zi_save *save)
{
    const zi_pieces *pieces = zi_pieces_for(ckpt, &save->bundle);
    zi_writer *writer = save->writer;
    int at_once = ckpt->config.async && zi_bundle_rounds(&save->bundle, ckpt->z->comm->world) <=
                                            zi_writer_room_of(writer);
    if (at_once)
        ZI_TRY(zi_send_pieces(pieces, 1, &save->shuffle, writer, save->hash));
    ZI_TRY(
        zi_comm_agree(ckpt->z->comm, zi_writer_start(writer, save->tmp, save->shown, save->name)));
    return at_once ? ZOPT_OK : zi_send_pieces(pieces, 0, &save->shuffle, writer, save->hash);
}

static zopt_status hash_params(void *arg)
{
    zi_ckpt *ckpt = arg;
    ckpt->save.params_hash = zi_params_hash(ckpt->z);
    return ZOPT_OK;
}

/* While pieces are being written. A caller that does not wait for them does not wait for a hash
 * either, where a thread can make it: zi_ckpt_settle compares. */
static zopt_status check_params(zi_ckpt *ckpt, zi_save *save)
{
    save->compared = !ckpt->config.async || !zi_params_hashable(ckpt->z);
    if (save->compared)
        return zi_params_agree(ckpt->z);
    return zi_comm_agree(ckpt->z->comm, zi_background_start(&save->hashing, hash_params, ckpt));
}

void zi_ckpt_keep_params(zi_ckpt *ckpt)
{
    (void)zi_background_finish(&ckpt->save.hashing);
}

zopt_status zi_ckpt_settle(zi_ckpt *ckpt)
{
    zi_save *save = &ckpt->save;
    if (!save->under_way || save->compared)
        return ZOPT_OK;
    zi_ckpt_keep_params(ckpt);
    save->compared = 1;
    zopt_status status = zi_params_compare(ckpt->z, save->params_hash);
    return status == ZOPT_OK ? ZOPT_OK : abandon(ckpt, save, status);
}

zopt_status zi_ckpt_save(zi_ckpt *ckpt, const char *path)
{
    zi_save *save = &ckpt->save;
    ZI_TRY(zi_ckpt_wait(ckpt));
    ZI_TRY(zi_params_settle(ckpt->z));
    ZI_TRY(zi_ckpt_claim(ckpt, path));
    save->step = ckpt->z->step;
    zopt_status status = begin(ckpt, save);
    if (status == ZOPT_OK)
        status = send_and_write(ckpt, save);
    if (status == ZOPT_OK)
        status = check_params(ckpt, save);
    if (status != ZOPT_OK)
        return abandon(ckpt, save, status);
    save->under_way = 1;
    return ckpt->config.async ? ZOPT_OK : zi_ckpt_wait(ckpt);
}

/* It has ended, or failed. */
static zopt_status close_save(zi_ckpt *ckpt, zopt_status status)
{
    if (status != ZOPT_OK)
        return abandon(ckpt, &ckpt->save, status);
    release(ckpt, &ckpt->save);
    return ZOPT_OK;
}

zopt_status zi_ckpt_wait(zi_ckpt *ckpt)
{
    zi_save *save = &ckpt->save;
    ZI_TRY(zi_ckpt_settle(ckpt));
    if (!save->under_way)
        return ZOPT_OK;
    zopt_status status = save->ends ? ZOPT_OK : zi_save_begin_end(ckpt, save);
    if (status == ZOPT_OK)
        status = zi_save_end(ckpt, save);
    return close_save(ckpt, status);
}

zopt_status zi_ckpt_poll(zi_ckpt *ckpt)
{
    zi_save *save = &ckpt->save;
    zi_comm *comm = ckpt->z->comm;
    if (!save->under_way)
        return ZOPT_OK;
    int64_t done =
        save->ends ? zi_background_is_done(&save->ending) : zi_writer_is_done(save->writer);
    ZI_TRY(comm->ops->all_reduce(comm, ZI_MIN, &done, 1));
    if (!done || save->ends)
        return done ? zi_ckpt_wait(ckpt) : ZOPT_OK;
    ZI_TRY(zi_ckpt_settle(ckpt));
    zopt_status status = zi_save_begin_end(ckpt, save);
    return status == ZOPT_OK ? ZOPT_OK : close_save(ckpt, status);
}
