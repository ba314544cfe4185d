/* Dense tables of counts: vocab^k entries for order k. */
#include "train/ngram.h"

#include <math.h>
#include <stdlib.h>

typedef struct counts {
    size_t vocab;
    uint32_t *table[NGRAM_ORDERS + 1]; /* of order k: [vocab^k]; order 0 counts everything */
} counts;

/* The number that the k tokens before and at `at` make. */
static size_t index_of(const counts *c, const token *at, int k)
{
    size_t index = 0;
    for (int i = k - 1; i >= 0; i--)
        index = index * c->vocab + at[-i];
    return index;
}

/* Every order counts the same places, so that order k's table also counts the contexts of order
 * k + 1, but for the one place at either end. */
static void count(counts *c, const token *tokens, size_t n)
{
    for (size_t i = NGRAM_ORDERS - 1; i < n; i++)
        for (int k = 0; k <= NGRAM_ORDERS; k++)
            c->table[k][index_of(c, tokens + i, k)]++;
}

static void add_logs(const counts *c, const token *at, double losses[NGRAM_ORDERS])
{
    double p = 1.0 / (double)c->vocab;
    for (int k = 1; k <= NGRAM_ORDERS; k++) {
        double seen = c->table[k][index_of(c, at, k)];
        double context = c->table[k - 1][index_of(c, at - 1, k - 1)];
        p = (seen + p) / (context + 1);
        losses[k - 1] -= log(p);
    }
}

int ngram_losses(const data *d, double losses[NGRAM_ORDERS])
{
    counts c = {.vocab = (size_t)d->n_vocab};
    int ok = d->n_vocab <= NGRAM_MAX_VOCAB && d->n_train >= NGRAM_ORDERS;
    size_t entries = 1;
    for (int k = 0; k <= NGRAM_ORDERS && ok; k++, entries *= c.vocab) {
        c.table[k] = calloc(entries, sizeof *c.table[k]);
        ok = c.table[k] != NULL;
    }
    if (ok)
        count(&c, d->tokens, d->n_train);
    for (int k = 0; k < NGRAM_ORDERS; k++)
        losses[k] = 0;
    for (size_t i = d->n_train; ok && i < d->n_train + d->n_val; i++)
        add_logs(&c, d->tokens + i, losses);
    for (int k = 0; k < NGRAM_ORDERS; k++)
        losses[k] /= (double)d->n_val;
    for (int k = 0; k <= NGRAM_ORDERS; k++)
        free(c.table[k]);
    return ok;
}
