/* What the host makes and kernels read, and what kernels sum and the host reads, as it lies in the
 * memory of the device, or of home where updates alone use it. Where that is the host's, both are
 * one and nothing is copied. */
#include <string.h>

#include "base/status.h"
#include "zero/ahead.h"
#include "zero/passes.h"

/* The rows or the columns of all matrices of a space. */
static size_t factor_bytes(const zi_zero *z, uint32_t space, zi_form form)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < z->n_tensors; i++)
        if (z->tensors[i].space == space)
            n += zi_factor_floats(&z->tensors[i], form);
    return (size_t)n * sizeof(float);
}

/* What is placed: where it is on the host, where the pointer to the other is, and its bytes. From
 * SPANS on: home's; from ROW_MEANS on: what statistics point to and the host computes. */
enum { SCALARS, CONTROL, NORM, SPANS, STATISTICS, SUMS, ROW_MEANS, FACTORS };
enum { MAX_TABLES = FACTORS + 2 * ZI_MAX_SPACES };
typedef struct table_row {
    void *host, *placed;
    size_t bytes;
} table_row;

static int list_tables(zi_zero *z, table_row row[MAX_TABLES])
{
    zi_placed *to = &z->placed;
    size_t n_spans = z->spans.first != NULL ? z->spans.first[z->layout.n_buckets] : 0;
    size_t n_tensors = z->statistics != NULL ? z->n_tensors : 0;
    size_t n_sums = z->statistics != NULL ? z->n_sums : 0;
    const table_row rows[FACTORS] = {
        [SCALARS] = {z->control.scalars, &to->scalars, z->n_groups * sizeof *to->scalars},
        [CONTROL] = {&z->control, &to->control, sizeof *to->control},
        [NORM] = {&z->norm, &to->norm, sizeof *to->norm},
        [SPANS] = {z->spans.span, &to->span, n_spans * sizeof *to->span},
        [STATISTICS] = {z->statistics, &to->statistics, n_tensors * sizeof *to->statistics},
        [SUMS] = {z->sums, &to->sums, n_sums * sizeof *to->sums},
        [ROW_MEANS] = {z->row_means, &to->row_means,
                       zi_statistics_n_matrices(z) * sizeof *to->row_means},
    };
    int n = FACTORS;
    memcpy(row, rows, sizeof rows);
    for (uint32_t s = 0; s < z->layout.n_spaces; s++) {
        const zi_state_slice *state = z->memory[s].state;
        size_t rows_bytes = factor_bytes(z, s, ZI_FORM_ROWS);
        if (rows_bytes == 0)
            continue;
        row[n++] = (table_row){state[0].data, &to->rows[s], rows_bytes};
        row[n++] = (table_row){state[1].data, &to->cols[s], factor_bytes(z, s, ZI_FORM_COLS)};
    }
    return n;
}

static void *placed(const table_row *row)
{
    void *pointer;
    memcpy(&pointer, row->placed, sizeof pointer);
    return pointer;
}

/* Host memory that home's statistics are copied from. */
static size_t image_bytes(const zi_zero *z)
{
    int needed = !z->config.home->on_host && z->statistics != NULL;
    return needed ? z->n_tensors * sizeof *z->placed.image : 0;
}

/* Whose memory row i is in. */
static const zi_device_ops *device_of(const zi_zero *z, int i)
{
    return i < SPANS ? z->config.device : z->config.home;
}

static zopt_status place(zi_zero *z, const table_row *row, const zi_device_ops *device)
{
    if (device->on_host) {
        memcpy(row->placed, &row->host, sizeof row->host);
        return ZOPT_OK;
    }
    ZI_TRY(device->alloc(z->queue, z->mem, ZI_MEM_TABLES, row->bytes, row->placed));
    if (placed(row) != NULL)
        device->copy(z->queue, placed(row), row->host, row->bytes);
    return ZOPT_OK;
}

zopt_status zi_place_tables(zi_zero *z)
{
    table_row row[MAX_TABLES];
    int n = list_tables(z, row);
    for (int i = 0; i < n; i++)
        ZI_TRY(place(z, &row[i], device_of(z, i)));
    return zi_mem_array(z->mem, ZI_MEM_TABLES, image_bytes(z), &z->placed.image);
}

void zi_unplace_tables(zi_zero *z)
{
    table_row row[MAX_TABLES];
    int n = list_tables(z, row);
    for (int i = 0; i < n; i++)
        if (!device_of(z, i)->on_host)
            device_of(z, i)->free(z->queue, z->mem, ZI_MEM_TABLES, placed(&row[i]), row[i].bytes);
    zi_mem_free_array(z->mem, ZI_MEM_TABLES, z->placed.image, image_bytes(z));
}

void zi_place_control(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    if (device->on_host)
        return;
    zi_control control = z->control;
    control.scalars = z->placed.scalars;
    device->copy(z->queue, z->placed.scalars, z->control.scalars,
                 z->n_groups * sizeof *z->control.scalars);
    device->copy(z->queue, z->placed.control, &control, sizeof control);
    if (z->ahead != NULL) {
        zi_ahead_place(z);
        zi_place_statistics(z); /* from here on the device moves them */
    }
}

void zi_norm_clear(zi_zero *z)
{
    z->config.device->zero(z->queue, z->placed.norm, sizeof z->norm);
}

zopt_status zi_norm_fetch(zi_zero *z)
{
    const zi_device_ops *device = z->config.device;
    if (!device->on_host)
        device->copy(z->queue, &z->norm, z->placed.norm, sizeof z->norm);
    return device->wait(z->queue);
}

void zi_sums_clear(zi_zero *z, size_t n)
{
    z->config.home->zero(z->home_queue, z->placed.sums, n * sizeof *z->sums);
}

zopt_status zi_sums_fetch(zi_zero *z, size_t n)
{
    const zi_device_ops *home = z->config.home;
    if (!home->on_host)
        home->copy(z->home_queue, z->sums, z->placed.sums, n * sizeof *z->sums);
    return home->wait(z->home_queue);
}

/* A tensor's statistics with home's addresses in place of the host's. */
static zi_tensor_statistics moved(const zi_zero *z, uint32_t id)
{
    const zi_placed *to = &z->placed;
    zi_tensor_statistics t = z->statistics[id];
    uint32_t space = z->tensors[id].space;
    if (t.sum == NULL)
        return t;
    t.sum = to->sums + (t.sum - z->sums);
    if (t.n_cols == 0)
        return t;
    t.row = to->rows[space] + (t.row - (float *)z->memory[space].state[0].data);
    t.col = to->cols[space] + (t.col - (float *)z->memory[space].state[1].data);
    t.row_mean = to->row_means + (t.row_mean - z->row_means);
    t.row_sum = to->sums + (t.row_sum - z->sums);
    t.col_sum = to->sums + (t.col_sum - z->sums);
    return t;
}

void zi_place_statistics(zi_zero *z)
{
    const zi_device_ops *home = z->config.home;
    table_row row[MAX_TABLES];
    if (image_bytes(z) == 0 || z->comm->planned)
        return;
    for (uint32_t i = 0; i < z->n_tensors; i++)
        z->placed.image[i] = moved(z, i);
    home->copy(z->home_queue, z->placed.statistics, z->placed.image, image_bytes(z));
    int n = list_tables(z, row);
    for (int i = ROW_MEANS; i < n; i++)
        home->copy(z->home_queue, placed(&row[i]), row[i].host, row[i].bytes);
}

zopt_status zi_factors_fetch(zi_zero *z)
{
    table_row row[MAX_TABLES];
    if (z->ahead == NULL || z->statistics == NULL)
        return ZOPT_OK;
    int n = list_tables(z, row);
    for (int i = FACTORS; i < n; i++)
        z->config.home->copy(z->home_queue, row[i].host, placed(&row[i]), row[i].bytes);
    return z->config.home->wait(z->home_queue);
}
