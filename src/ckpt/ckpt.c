/* Life of a handle's checkpoints: what is kept from commit to destroy, and warnings. See ckpt.h for
 * the path of a save and of a load. */
#include "ckpt/ckpt.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "ckpt/parts.h"

void zi_ckpt_warn(const zi_ckpt *ckpt, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (ckpt->z->comm->rank != 0)
        return; /* all ranks see the same */
    if (ckpt->config.on_warning != NULL)
        ckpt->config.on_warning(ckpt->config.on_warning_arg, text);
    else
        fprintf(stderr, "zopt: %s\n", text);
}

static int is_utf8(const char *text)
{
    json_t *string = json_string(text);
    json_decref(string);
    return string != NULL;
}

zopt_status zi_ckpt_note(zi_ckpt *ckpt, const char *key, const char *value)
{
    enum { MAX_KEY_BYTES = 200 };
    size_t bytes = strlen(key);
    if (bytes == 0 || bytes > MAX_KEY_BYTES || !is_utf8(key) || !is_utf8(value))
        return ZI_FAIL(ZOPT_ERR_ARGUMENT, "zopt_note: '%.50s' is %s", key,
                       bytes > 0 && bytes <= MAX_KEY_BYTES ? "not UTF-8, or its value is not"
                                                           : "empty or too long");
    return zi_texts_set(&ckpt->notes, key, value);
}

const zi_pieces *zi_pieces_for(const zi_ckpt *ckpt, const zi_bundle *bundle)
{
    const zi_pieces *pieces = &ckpt->pieces;
    return pieces->memory.bytes > 0 && pieces->stride >= zi_bundle_piece_bytes(bundle) &&
                   !ckpt->save.under_way
               ? pieces
               : NULL;
}

zopt_status zi_save_buffers(zi_zero *z, int all, const zi_bundle *bundle, const zi_pieces *pieces,
                            zi_writer **writer, zi_shuffle *shuffle)
{
    enum { IN_TURN = 4 }; /* two written, one whole, one being filled */
    size_t bytes = zi_bundle_piece_bytes(bundle), most = zi_bundle_rounds(bundle, z->comm->world);
    zi_writer_room room = {.n_buffers = all || most < IN_TURN ? most : IN_TURN,
                           .buffer_bytes = bytes};
    *shuffle = (zi_shuffle){.z = z};
    if (pieces == NULL)
        ZI_TRY(zi_shuffle_create(z, bytes, NULL, shuffle));
    if (pieces != NULL && all) {
        room = (zi_writer_room){
            .n_buffers = pieces->n_buffers, .buffer_bytes = pieces->stride, .lent = 1};
        if (!z->comm->planned)
            room.memory = zi_pieces_at(pieces, z->comm->rank, 0);
    }
    zopt_status status = zi_writer_create(z->mem, &room, writer);
    if (status != ZOPT_OK)
        zi_shuffle_destroy(shuffle);
    return status;
}

/* What a save, an export or a load takes as long as it lasts, taken for a moment: too little memory
 * shows at commit rather than then, and the peak that a plan counts is the real one. */
static zopt_status try_buffers(zi_zero *z, const zi_bundle *bundle, const zi_pieces *pieces)
{
    zi_writer *writer;
    zi_shuffle shuffle;
    ZI_TRY(zi_save_buffers(z, 0, bundle, pieces, &writer, &shuffle));
    zi_writer_destroy(writer);
    zi_shuffle_destroy(&shuffle);
    return ZOPT_OK;
}

/* A checkpoint may have been split into other parts than this handle's. */
static zopt_status try_load(const zi_ckpt *ckpt)
{
    zi_load_room room;
    zopt_status status = zi_load_room_create(ckpt, ckpt->most_piece_bytes, &room);
    zi_load_room_free(ckpt, &room);
    return status;
}

/* The pieces' memory and, for asynchronous saves, all buffers are kept, so that a save finds them
 * touched. */
static zopt_status reserve_for(zi_ckpt *ckpt, const zi_bundle *bundle)
{
    enum { STORED_AHEAD = 2 }; /* one whole, one being filled */
    int async = ckpt->config.async;
    size_t rounds = zi_bundle_rounds(bundle, ckpt->z->comm->world);
    size_t n_buffers = async && rounds > STORED_AHEAD ? rounds : STORED_AHEAD;
    ZI_TRY(zi_pieces_create(ckpt->z, zi_bundle_piece_bytes(bundle), n_buffers, &ckpt->pieces));
    const zi_pieces *pieces = zi_pieces_for(ckpt, bundle);
    if (async)
        ZI_TRY(zi_save_buffers(ckpt->z, 1, bundle, pieces, &ckpt->writer, &ckpt->shuffle));
    if (pieces != NULL)
        ZI_TRY(try_buffers(ckpt->z, bundle, pieces));
    ckpt->most_piece_bytes = zi_bundle_most_piece_bytes(bundle);
    ZI_TRY(try_load(ckpt));
    /* An export cannot have the pieces of an asynchronous save under way. */
    return pieces == NULL || async ? try_buffers(ckpt->z, bundle, NULL) : ZOPT_OK;
}

/* Buffers are as many, and as large, on all ranks: peers store into them. */
static zopt_status check_alike(const zi_ckpt *ckpt)
{
    const zi_ckpt_config *c = &ckpt->config;
    if (ckpt->z->comm->planned)
        return ZOPT_OK;
    ZI_TRY(zi_same_everywhere(ckpt->z->comm, c->async ? 2 : 0, "async_save"));
    return zi_same_everywhere(ckpt->z->comm, c->part_bytes << 1, "part_bytes");
}

static zopt_status reserve(zi_ckpt *ckpt)
{
    zi_bundle bundle;
    const zi_contents contents = {.model = ZI_ARRAY_MASTER,
                                  .optimizer = 1,
                                  .sealed = 1,
                                  .part_bytes = ckpt->config.part_bytes,
                                  .texts = {&ckpt->rows, &ckpt->rows}};
    ZI_TRY(check_alike(ckpt));
    ZI_TRY(zi_comm_agree(ckpt->z->comm, zi_contents_describe(ckpt->z, &contents, &bundle)));
    zopt_status status = reserve_for(ckpt, &bundle);
    zi_bundle_free(&bundle);
    return status;
}

static zopt_status make(zi_zero *z, const zi_ckpt_config *config, zi_ckpt **out)
{
    zi_ckpt *ckpt;
    ZI_TRY(zi_mem_table(z->mem, sizeof *ckpt, &ckpt));
    *out = ckpt;
    ckpt->z = z;
    ckpt->config = *config;
    ckpt->folder = ckpt->lock = ckpt->save.tmp = -1;
    ckpt->validated = UINT64_MAX;
    ckpt->shuffle.z = z;
    return zi_config_rows(z, &ckpt->rows);
}

zopt_status zi_ckpt_create(zi_zero *z, const zi_ckpt_config *config, zi_ckpt **out)
{
    *out = NULL;
    zopt_status status = zi_comm_agree(z->comm, make(z, config, out));
    if (status == ZOPT_OK && *out != NULL)
        status = reserve(*out);
    if (status != ZOPT_OK) {
        zi_ckpt_destroy(*out);
        *out = NULL;
    }
    return status;
}

void zi_ckpt_destroy(zi_ckpt *ckpt)
{
    if (ckpt == NULL)
        return;
    if (zi_ckpt_wait(ckpt) != ZOPT_OK)
        zi_ckpt_warn(ckpt, "the last save failed: %s", zopt_last_error());
    zi_writer_destroy(ckpt->writer);
    zi_shuffle_destroy(&ckpt->shuffle);
    zi_pieces_destroy(ckpt->z, &ckpt->pieces);
    if (ckpt->lock >= 0)
        close(ckpt->lock);
    if (ckpt->folder >= 0)
        close(ckpt->folder);
    zi_texts_free(&ckpt->rows);
    zi_texts_free(&ckpt->notes);
    zi_mem_free_table(ckpt->z->mem, ckpt, sizeof *ckpt);
}
