/* The text: a UTF-8 file as a sequence of tokens, one for each code point, cut into a training and
 * a held-out validation part, and the windows that training draws from it. */
#ifndef TRAIN_DATA_H
#define TRAIN_DATA_H

#include <stddef.h>
#include <stdint.h>

#include <zopt/zopt.h>

typedef uint16_t token;

enum { DATA_MAX_VOCAB = 65535 };

typedef struct data {
    token *tokens; /* n_train of training, then n_val held out */
    size_t n_train, n_val;
    uint32_t *vocab; /* [n_vocab] code points, ascending, of the whole text */
    int n_vocab;
    uint64_t hash; /* of the file's bytes: for the ranks to agree on */
} data;

/* Read a file, or a pipe to its end, and hold out its last `val_fraction`. Either part must fill a
 * window of `context` tokens and their successors. Errors: ERR_READ and ERR_PERMISSION name the
 * file; ERR_DATA the offset of what is not UTF-8, the lengths of a text that is too short, the
 * limit of the vocabulary or of a text, 1 GiB, or that it is a device.
 * On failure *out is empty. */
zopt_status data_load(const char *path, double val_fraction, int context, data *out);

/* The same from memory; `name` is for error texts. */
zopt_status data_from_bytes(const char *name, const unsigned char *bytes, size_t n_bytes,
                            double val_fraction, int context, data *out);

void data_free(data *d);

/* Where sample `sample` of slot `slot` of attempted step `step` begins: in [0, n_train - context),
 * a function of these and the seed alone, never of rank or world. */
size_t data_window(const data *d, int context, uint64_t seed, uint64_t step, int slot, int sample);

/* Copy windows of a slot: inputs and targets are [samples, context], targets one token ahead. */
typedef struct data_slot {
    uint64_t seed, step;
    int slot, samples, context;
} data_slot;
void data_fill_slot(const data *d, const data_slot *which, token *inputs, token *targets);

/* Validation windows are cut one after the other, without overlap; what does not fill the last one
 * is left out. */
size_t data_val_windows(const data *d, int context);
void data_fill_val(const data *d, int context, size_t first, int samples, token *inputs,
                   token *targets);

/* Encode UTF-8 text, at most `max` tokens, into `tokens`. Errors: ERR_CONFIG with the character
 * that the text does not have, or what is not UTF-8. */
zopt_status data_encode(const data *d, const char *text, token *tokens, size_t max, size_t *n);

/* Write a token's character as UTF-8 into out[5], 0-terminated. */
void data_decode(const data *d, token t, char out[5]);

#endif
