/* See trace_check.h. Times are checked for their order alone. */
#include "trace_check.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition, ...)                                                  \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: not %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                       \
            fputc('\n', stderr);                                                \
            abort();                                                            \
        }                                                                       \
    } while (0)

/* The file has thousandths of a microsecond, of a beginning and a duration: two roundings. */
#define ROUNDING_US 0.0021

typedef struct span {
    const char *name;
    int rank, lane, step, micro, bucket; /* -1: it has none */
    double begin, end;
    json_t *args;
} span;

static int integer(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return value != NULL ? (int)json_integer_value(value) : -1;
}

/* All complete events; lanes must have names. */
static size_t read_spans(json_t *events, int world, span *out)
{
    json_t *e;
    size_t i, n = 0;
    int n_named = 0;
    json_array_foreach(events, i, e)
    {
        const char *phase = json_string_value(json_object_get(e, "ph"));
        const char *name = json_string_value(json_object_get(e, "name"));
        n_named += strcmp(name, "thread_name") == 0;
        if (strcmp(phase, "X") != 0)
            continue;
        span *s = &out[n++];
        s->args = json_object_get(e, "args");
        *s = (span){.name = name,
                    .rank = integer(e, "pid"),
                    .lane = integer(e, "tid"),
                    .step = integer(s->args, "step"),
                    .micro = integer(s->args, "micro"),
                    .bucket = integer(s->args, "bucket"),
                    .args = s->args};
        s->begin = json_number_value(json_object_get(e, "ts"));
        s->end = s->begin + json_number_value(json_object_get(e, "dur"));
        EXPECT(s->rank >= 0 && s->rank < world, "%s of rank %d", s->name, s->rank);
        EXPECT(s->end >= s->begin, "%s: %f..%f", s->name, s->begin, s->end);
    }
    EXPECT(n_named == 7 * world, "%d lanes", n_named);
    return n;
}

static int by_lane(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    if (x->lane != y->lane)
        return x->lane < y->lane ? -1 : 1;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static void check_lanes(span *spans, size_t n)
{
    qsort(spans, n, sizeof *spans, by_lane);
    for (size_t i = 1; i < n; i++) {
        const span *a = &spans[i - 1], *b = &spans[i];
        EXPECT(a->rank != b->rank || a->lane != b->lane || a->end <= b->begin + ROUNDING_US,
               "rank %d: %s of step %d, bucket %d, ends at %.3f; %s of step %d, bucket %d, begins "
               "at %.3f",
               a->rank, a->name, a->step, a->bucket, a->end, b->name, b->step, b->bucket, b->begin);
    }
}

typedef struct place {
    int rank, step, micro, bucket;
} place;

/* The only one; NULL: there is none. */
static const span *find(const span *spans, size_t n, const char *name, place at)
{
    const span *found = NULL;
    for (size_t i = 0; i < n; i++) {
        const span *s = &spans[i];
        if (s->rank != at.rank || s->step != at.step || s->micro != at.micro ||
            s->bucket != at.bucket || strcmp(s->name, name) != 0)
            continue;
        EXPECT(found == NULL, "rank %d, step %d, bucket %d: two of %s", at.rank, at.step, at.bucket,
               name);
        found = s;
    }
    return found;
}

static const span *must_find(const span *spans, size_t n, const char *name, place at)
{
    const span *found = find(spans, n, name, at);
    EXPECT(found != NULL, "rank %d, step %d, micro-step %d, bucket %d: no %s", at.rank, at.step,
           at.micro, at.bucket, name);
    return found;
}

static void check_order(const span *a, const span *b)
{
    EXPECT(a->end <= b->begin + ROUNDING_US, "%s of bucket %d ends at %.3f, %s begins at %.3f",
           a->name, a->bucket, a->end, b->name, b->begin);
}

static void check_bucket(const span *spans, size_t n, const trace_want *want, place at)
{
    const span *last = NULL;
    place of_params = at;
    for (at.micro = 0; at.micro < want->n_micro; at.micro++) {
        int is_last = at.micro == want->n_micro - 1;
        const span *exchange = must_find(spans, n, "exchange", at);
        const span *pass = must_find(spans, n, is_last ? "norm" : "accumulate", at);
        EXPECT(find(spans, n, is_last ? "accumulate" : "norm", at) == NULL, "two passes");
        check_order(exchange, pass);
        if (last != NULL)
            check_order(last, exchange);
        last = pass;
        if (at.bucket < want->n_early) {
            place all = {at.rank, at.step, at.micro, -1};
            const span *backward = must_find(spans, n, "backward", all);
            EXPECT(pass->end <= backward->end + ROUNDING_US, "bucket %d: %s", at.bucket,
                   pass->name);
        }
    }
    of_params.micro = -1;
    const span *update = find(spans, n, "update", of_params);
    const span *gather = find(spans, n, "gather", of_params);
    if (want->has_parameters != 0)
        EXPECT((update != NULL) == (want->has_parameters > 0) &&
                   (gather != NULL) == (want->has_parameters > 0),
               "step %d, bucket %d: update, gather", at.step, at.bucket);
    if (update != NULL)
        check_order(last, update);
    if (gather != NULL)
        check_order(update, gather);
}

/* What the step says of itself. */
static void check_summary(const span *step, const trace_want *want)
{
    int n = integer(step->args, "buckets"), summed = integer(step->args, "summed_in_backward");
    EXPECT(n == want->n_micro * want->n_buckets, "%d buckets", n);
    int n_early = want->n_micro * want->n_early;
    EXPECT(want->is_one_clock ? summed == n_early : summed >= n_early,
           "%d summed in backward, and %d are", summed, n_early);
    EXPECT(integer(step->args, "exchanged_in_backward") >= summed, "fewer exchanged");
    EXPECT(integer(step->args, "exposed_behind_backward") == n - summed, "exposed");
}

static void check_step(const span *spans, size_t n, const trace_want *want, place at)
{
    static const char graph[] = "all updates and gathers: a CUDA graph";
    const span *step = must_find(spans, n, "zopt_step", at);
    check_summary(step, want);
    EXPECT((find(spans, n, graph, at) != NULL) == (want->has_parameters < 0), "%s", graph);
    for (at.micro = 0; at.micro < want->n_micro; at.micro++) {
        const span *backward = must_find(spans, n, "backward", at);
        const span *end = must_find(spans, n, "zopt_micro_end", at);
        if (!want->has_stream)
            check_order(backward, end);
        check_order(end, step);
    }
    at.micro = -1;
    for (at.bucket = 0; at.bucket < want->n_buckets; at.bucket++)
        check_bucket(spans, n, want, at);
}

void trace_check(const char *path, const trace_want *want)
{
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    EXPECT(root != NULL, "%s:%d: %s", path, error.line, error.text);
    json_t *events = json_object_get(root, "traceEvents");
    EXPECT(json_is_array(events), "no traceEvents");
    span *spans = calloc(json_array_size(events), sizeof *spans);
    size_t n = read_spans(events, want->world, spans);
    check_lanes(spans, n);
    int end = want->first_step + want->n_steps;
    for (size_t i = 0; i < n; i++)
        EXPECT(spans[i].step >= want->first_step && spans[i].step < end, "%s of step %d",
               spans[i].name, spans[i].step);
    for (size_t i = 0; i < n && want->has_stream; i++)
        EXPECT(strncmp(spans[i].name, "wait in ", 8) != 0, "%s: a stream waits, not the call",
               spans[i].name);
    for (int rank = 0; rank < want->world; rank++)
        for (int step = want->first_step; step < end; step++)
            check_step(spans, n, want, (place){rank, step, -1, -1});
    free(spans);
    json_decref(root);
}
