/* The flat spaces: where every tensor lies, how they are cut into buckets and slices, and in which
 * order buckets are communicated. Pure arithmetic on the tensor table, the same on every rank; only
 * padding at a bucket's end depends on the number of ranks. Next: bucket.c, which watches buckets
 * fill up. */
#ifndef ZI_ZERO_LAYOUT_H
#define ZI_ZERO_LAYOUT_H

#include "base/dtype.h"
#include "base/mem.h"
#include "optim/optim.h"

enum { ZI_MAX_DIMS = 8, ZI_LARGE_TENSOR = 4096 };
/* Elements that tensors start at multiples of: whole blocks, half a line of the caches, and a line
 * of the kernels where a rule works on whole tensors. */
enum { ZI_ALIGN_LARGE = 256, ZI_ALIGN_SMALL = 16, ZI_ALIGN_WHOLE = 32 };

/* Every dtype with every variant, and frozen. */
enum { ZI_MAX_SPACES = ZI_N_DTYPES * (ZI_MAX_VARIANTS + 1) };

/* The largest number of elements of a space or tensor; leaves room for byte sizes and padding. */
#define ZI_MAX_ELEMS ((uint64_t)1 << 56)

typedef struct zi_tensor {
    /* What every call of a step reads, in one line of the caches. */
    char *name;
    const zi_variant *variant; /* NULL: frozen, neither gradient nor state */
    zopt_dtype dtype;
    uint64_t n_elems;
    /* Filled in by zi_layout_build, in elements of the tensor's space. */
    uint32_t space;
    uint32_t first_bucket, n_buckets; /* that it touches, in flat order */
    uint64_t start;
    uint64_t extent; /* to the next tensor, or to the end of the last bucket: data and padding */
    /* The rest. */
    uint64_t name_hash;
    int group;
    int ndim;
    uint64_t shape[ZI_MAX_DIMS];
} zi_tensor;

/* All tensors of one dtype and one variant, in registration order. */
typedef struct zi_space {
    zopt_dtype dtype;
    const zi_variant *variant; /* NULL: of frozen tensors; none of its buckets is communicated */
    uint64_t n_elems;          /* to the end of the last tensor */
    uint64_t n_padded;         /* to the end of the last bucket */
    uint64_t bucket_elems;     /* of all buckets but the last */
    uint64_t owned_start;      /* where this space begins among a rank's owned elements */
    uint32_t first_bucket, n_buckets;
} zi_space;

typedef struct zi_bucket {
    uint32_t space;
    zopt_dtype dtype;
    uint64_t start, n_elems; /* in the space; n_elems = world * slice_elems */
    uint64_t slice_elems;    /* a multiple of 256 */
    uint64_t owned_start;    /* this rank's slice among its owned elements */
    uint32_t first_tensor;   /* lowest id of a tensor that it holds an element of */
    uint32_t n_tensors;      /* that it holds elements of */
    uint32_t position;       /* in the order of communication; frozen: past its end */
} zi_bucket;

typedef struct zi_layout {
    int world;
    zi_space space[ZI_MAX_SPACES]; /* in the order of their first tensors */
    uint32_t n_spaces;
    zi_bucket *bucket; /* [n_buckets], by space, then by start */
    uint32_t n_buckets;
    uint32_t *order; /* [n_exchanged]: bucket at each position */
    uint32_t n_exchanged;
    uint64_t owned_elems;   /* of every rank: a multiple of 256 */
    uint64_t trained_elems; /* the first of them: what is not frozen */
    uint64_t max_slice_bytes;
} zi_layout;

/* Lay out the tensors and cut them. bucket_elems is rounded up to a multiple of 256 * world. The
 * order of communication is that of a backward pass: a bucket whose first tensor was registered
 * later comes earlier. Errors: ERR_MEMORY, ERR_ARGUMENT past ZI_MAX_ELEMS. */
zopt_status zi_layout_build(zi_mem *mem, zi_tensor *tensors, uint32_t n_tensors, int world,
                            uint64_t bucket_elems, zi_layout *layout);
void zi_layout_free(zi_mem *mem, zi_layout *layout);

/* The bucket that holds element `at` of a space. */
const zi_bucket *zi_layout_bucket_at(const zi_layout *layout, uint32_t space, uint64_t at);

/* A run of a tensor's elements inside one slice. */
typedef struct zi_piece {
    int owner;          /* the rank that owns the slice */
    uint64_t tensor_at; /* first element, in the tensor */
    uint64_t flat_at;   /* the same, in the space */
    uint64_t owned_at;  /* the same, among the owner's owned elements */
    uint64_t n_elems;
} zi_piece;

/* The piece of [at, end) of the tensor that begins at `at`; at < end <= n_elems. */
zi_piece zi_layout_piece(const zi_layout *layout, const zi_tensor *tensor, uint64_t at,
                         uint64_t end);

#endif
