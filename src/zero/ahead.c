/* See ahead.h. The host offers the scalars of every good step that this one may be: it does not
 * know yet how many of the steps before it are skipped. The device takes a row, and writes what
 * came out into the step's slot. */
#include "zero/ahead.h"

#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "zero/passes.h"

/* Additions of blocks' sums to a limb that fit before it is normalized (exact.h), as elements. */
#define MAX_UNCARRIED_ELEMS ((uint64_t)1 << 38)

/* ---- life ---- */

const char *zi_ahead_missing(const zi_zero *z)
{
    uint64_t n_elems = 0;
    for (uint32_t s = 0; s < z->layout.n_spaces; s++)
        n_elems += z->layout.space[s].n_padded;
    if (z->config.device->decide == NULL)
        return "its device is the host";
    if (zi_is_offloaded(z))
        return "the host updates its offloaded state";
    if (z->comm->ops->sum_enqueue == NULL)
        return "its transport sums on the host";
    if (z->comm->sums_travel)
        return "the host looks at sums of slots that its transport makes";
    if (n_elems > MAX_UNCARRIED_ELEMS)
        return "it has more than 2^38 parameters";
    return NULL;
}

enum { N_ARRAYS = 8 };
typedef struct array_row {
    void *pointer;
    size_t bytes;
    int is_locked; /* 1: page-locked memory of the host */
} array_row;

/* A rank's losses, and its mark. */
static size_t loss_row(const zi_zero *z)
{
    return (size_t)z->n_micro + 1;
}

/* In bad_key: a key of each rank, and its row of losses. */
static size_t n_met(const zi_zero *z)
{
    return (size_t)z->comm->world * (1 + loss_row(z));
}

static double *losses_of(const zi_zero *z, int rank)
{
    return (double *)(void *)(z->ahead->bad_key + z->comm->world) + (size_t)rank * loss_row(z);
}

static void list_arrays(const zi_zero *z, array_row row[N_ARRAYS])
{
    zi_ahead *a = z->ahead;
    size_t n_groups = z->n_groups, n_offered = n_groups * ZI_MAX_PENDING * ZI_MAX_PENDING;
    int has_terms = z->statistics != NULL;
    const array_row rows[N_ARRAYS] = {
        {&a->slot, ZI_MAX_PENDING * sizeof *a->slot, 1},
        {&a->offered, n_offered * sizeof *a->offered, 1},
        {&a->offered_losses, ZI_MAX_PENDING * loss_row(z) * sizeof *a->offered_losses, 1},
        {&a->offered_terms, has_terms ? n_offered * sizeof *a->offered_terms : 0, 1},
        {&a->terms, has_terms ? n_groups * sizeof *a->terms : 0, 0},
        {&a->standing, sizeof *a->standing, 0},
        {&a->bad_key, n_met(z) * sizeof *a->bad_key, 0},
        {&a->tensor, z->n_tensors * sizeof *a->tensor, 0},
    };
    memcpy(row, rows, sizeof rows);
}

/* Tensors by space, in which they lie in the order of their ids. */
static zopt_status place_tensors(zi_zero *z)
{
    zi_ahead *a = z->ahead;
    size_t bytes = z->n_tensors * sizeof *a->tensor;
    zi_tensor_start *start;
    uint32_t n = 0;
    ZI_TRY(zi_mem_table(z->mem, bytes, &start));
    for (uint32_t s = 0; s < z->layout.n_spaces; s++) {
        a->first_tensor[s] = n;
        for (uint32_t i = 0; i < z->n_tensors; i++)
            if (z->tensors[i].space == s)
                start[n++] = (zi_tensor_start){z->tensors[i].start, i};
    }
    a->first_tensor[z->layout.n_spaces] = n;
    if (!z->comm->planned)
        z->config.device->copy(z->queue, a->tensor, start, bytes);
    zi_mem_free_table(z->mem, start, bytes);
    return ZOPT_OK;
}

static zopt_status create_events(zi_zero *z)
{
    for (int i = 0; i < ZI_MAX_PENDING && !z->comm->planned; i++)
        ZI_TRY(z->config.device->event_create(z->queue, &z->ahead->pending[i].done));
    return ZOPT_OK;
}

static zopt_status create(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    array_row row[N_ARRAYS];
    ZI_TRY(zi_mem_table(z->mem, sizeof *z->ahead, &z->ahead));
    list_arrays(z, row);
    for (int i = 0; i < N_ARRAYS; i++)
        ZI_TRY((row[i].is_locked ? device->alloc_host : device->alloc)(
            z->queue, z->mem, ZI_MEM_TABLES, row[i].bytes, row[i].pointer));
    ZI_TRY(place_tensors(z));
    return create_events(z);
}

zopt_status zi_ahead_create(zi_zero *z)
{
    const char *why = zi_ahead_missing(z);
    const char *graph = z->comm->ops->replayable ? NULL : "its transport enqueues work of its own";
    if (z->config.cuda_graph == 1 && (why != NULL || graph != NULL))
        return ZI_FAIL(ZOPT_ERR_UNSUPPORTED,
                       "cuda_graph = 1, but no step of this handle can be recorded: %s",
                       why != NULL ? why : graph);
    if (why != NULL)
        return ZOPT_OK;
    ZI_TRY(create(z));
    z->comm->on_abort = zi_capture_drop;
    z->comm->on_abort_arg = z;
    z->ahead->capture.never = z->config.cuda_graph == 0 ? "cuda_graph is 0" : graph;
    return ZOPT_OK;
}

void zi_ahead_destroy(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    array_row row[N_ARRAYS];
    if (z->ahead == NULL)
        return;
    zi_capture_free(z);
    z->comm->on_abort = NULL;
    list_arrays(z, row);
    for (int i = 0; i < N_ARRAYS; i++) {
        void *array;
        memcpy(&array, row[i].pointer, sizeof array);
        (row[i].is_locked ? device->free_host : device->free)(z->queue, z->mem, ZI_MEM_TABLES,
                                                              array, row[i].bytes);
    }
    for (int i = 0; i < ZI_MAX_PENDING; i++)
        device->event_destroy(z->ahead->pending[i].done);
    zi_mem_free_table(z->mem, z->ahead, sizeof *z->ahead);
    z->ahead = NULL;
}

void zi_ahead_place(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    const zi_standing standing = {z->step, z->good_step, z->scale, 0};
    const int64_t none = INT64_MAX;
    zi_ahead *a = z->ahead;
    device->copy(z->queue, a->standing, &standing, sizeof standing);
    device->zero(z->queue, a->bad_key, n_met(z) * sizeof *a->bad_key);
    device->copy(z->queue, a->bad_key + z->comm->rank, &none, sizeof none);
    a->n_heard = z->step;
}

/* ---- hearing of a step ---- */

/* The first one is told. */
static void keep_failure(zi_ahead *a, zopt_status status)
{
    if (a->failure.status != ZOPT_OK)
        return;
    a->failure.status = status;
    a->failure.step = a->n_heard;
    snprintf(a->failure.text, sizeof a->failure.text, "%s", zopt_last_error());
}

static zopt_status hear_of_one(zi_zero *z)
{
    zi_ahead *a = z->ahead;
    const zi_step_slot *slot = &a->slot[a->n_heard % ZI_MAX_PENDING];
    const zi_pending *pending = &a->pending[a->n_heard % ZI_MAX_PENDING];
    zopt_step_report *report = &z->report;
    double scale = z->scale.scale;
    uint64_t row = z->good_step - slot->least_good;
    if (!slot->decision.skip)
        zi_group_advance(z);
    a->n_heard++;
    z->good_step = slot->after.good_step;
    z->scale = slot->after.scale;
    z->decision = slot->decision;
    *report = (zopt_step_report){
        .step = a->n_heard,
        .good_step = z->good_step,
        .loss = slot->loss,
        .grad_norm = slot->decision.norm,
        .clip_coef = slot->decision.clip,
        .lr = pending->lr[row],
        .loss_scale = scale,
        .skipped = slot->decision.skip,
        .bytes_sent = pending->bytes_sent,
    };
    memcpy(report->phase_ms, pending->phase_ms, sizeof report->phase_ms);
    zi_locate_report(z, slot->decision.skip ? slot->bad_key : INT64_MAX, report);
    if (slot->after.other_rank > 0) {
        keep_failure(a, zi_disagree(a->n_heard, slot->after.other_rank));
        return ZOPT_OK;
    }
    if (slot->decision.skip && slot->bad_key == INT64_MAX)
        return ZI_FAIL(ZOPT_ERR_FAILURE, "a sum was not finite, but no rank can say where");
    if (slot->decision.give_up)
        keep_failure(a, zi_give_up(z));
    return ZOPT_OK;
}

static zopt_status hear(zi_zero *z, uint64_t most_pending)
{
    const zi_device_ops *device = z->config.device;
    for (zi_ahead *a = z->ahead; a != NULL && a->n_heard < z->step;) {
        const zi_event *event = a->pending[a->n_heard % ZI_MAX_PENDING].done;
        int done = 1;
        ZI_TRY(z->step - a->n_heard > most_pending ? device->event_wait(event)
                                                   : device->event_query(event, &done));
        if (!done)
            return ZOPT_OK;
        ZI_TRY(hear_of_one(z));
    }
    return ZOPT_OK;
}

zopt_status zi_ahead_hear(zi_zero *z, int wait)
{
    zopt_status status = hear(z, wait ? 0 : ZI_MAX_PENDING);
    z->failed |= status != ZOPT_OK;
    ZI_TRY(status);
    int is_last = z->ahead != NULL && z->ahead->failure.status == ZOPT_ERR_DISAGREE;
    return wait && is_last ? zi_ahead_failure(z, wait) : ZOPT_OK;
}

zopt_status zi_ahead_failure(zi_zero *z, int waited)
{
    zi_ahead *a = z->ahead;
    if (a == NULL || a->failure.status == ZOPT_OK ||
        (!waited && z->step < a->failure.step + ZI_MAX_PENDING))
        return ZOPT_OK;
    zopt_status status = a->failure.status;
    a->failure.status = ZOPT_OK;
    z->failed |= status == ZOPT_ERR_DISAGREE;
    return ZI_FAIL(status, "%s", a->failure.text);
}

/* ---- a step ---- */

/* The good steps that this one may be: one more than have been heard of, or than are under way. */
static void offer(zi_zero *z)
{
    zi_ahead *a = z->ahead;
    size_t at = z->step % ZI_MAX_PENDING;
    a->slot[at].least_good = z->good_step;
    for (unsigned i = 0; i <= z->step - a->n_heard; i++) {
        size_t row = (at * ZI_MAX_PENDING + i) * z->n_groups;
        zi_group_foresee(z, i + 1, a->offered + row);
        for (uint32_t g = 0; g < z->n_groups && a->terms != NULL; g++)
            zi_group_terms(z, g, z->good_step + 1 + i, &a->offered_terms[row + g]);
        a->pending[at].lr[i] = zi_group_lr(z, 0, z->good_step + 1 + i);
    }
}

/* This rank's row, for the sum. Not recorded: a step's comes from where the one before it does not.
 */
static void bring_losses(zi_zero *z)
{
    size_t bytes = loss_row(z) * sizeof *z->losses;
    double *offered = z->ahead->offered_losses + z->step % ZI_MAX_PENDING * loss_row(z);
    memcpy(offered, z->losses, bytes);
    z->config.device->copy(z->queue, losses_of(z, z->comm->rank), offered, bytes);
}

zopt_status zi_ahead_decide(zi_zero *z)
{
    const zi_ahead *a = z->ahead;
    const zi_comm_ops *comm = z->comm->ops;
    const zi_decide_job job = {.rules = z->config.scale_rules,
                               .measured = z->measure,
                               .rank = z->comm->rank,
                               .world = z->comm->world,
                               .n_losses = z->n_micro,
                               .n_groups = z->n_groups,
                               .norm = z->placed.norm,
                               .bad_key = a->bad_key,
                               .losses = losses_of(z, 0),
                               .standing = a->standing,
                               .control = z->placed.control,
                               .slot = a->slot,
                               .offered = (const float(*)[ZI_MAX_SCALARS])a->offered,
                               .offered_terms = a->offered_terms,
                               .terms = a->terms};
    if (z->measure) {
        ZI_TRY(comm->sum_enqueue(z->comm, z->placed.norm->squares.limb,
                                 sizeof *z->placed.norm / sizeof(int64_t)));
        ZI_TRY(zi_locate_enqueue(z));
    }
    ZI_TRY(comm->sum_enqueue(z->comm, a->bad_key, n_met(z)));
    z->config.device->decide(z->queue, &job);
    return zi_rounds_enqueue(z);
}

zopt_status zi_ahead_run(zi_zero *z)
{
    zi_phase(z, ZOPT_PHASE_NORM);
    ZI_TRY(hear(z, ZI_MAX_PENDING - 1));
    offer(z);
    bring_losses(z);
    ZI_TRY(zi_owner_finish(z));
    zi_phase(z, ZOPT_PHASE_UPDATE);
    if (z->ahead->capture.never == NULL)
        return zi_capture_run(z);
    ZI_TRY(zi_ahead_decide(z));
    return zi_update_all(z);
}

void zi_ahead_note(zi_zero *z)
{
    zi_pending *pending = &z->ahead->pending[(z->step - 1) % ZI_MAX_PENDING];
    zi_phase(z, -1);
    pending->bytes_sent = z->comm->bytes_sent - z->bytes_before;
    z->bytes_before = z->comm->bytes_sent;
    memcpy(pending->phase_ms, z->phase_ms, sizeof pending->phase_ms);
    memset(z->phase_ms, 0, sizeof z->phase_ms);
    z->config.device->event_record(z->queue, pending->done);
}
