/* Draws each character from the model's probabilities, sharpened by the temperature. The window is
 * computed anew for each one: slow, but simple, and the same arithmetic as in training. */
#include "train/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/fail.h"
#include "train/random.h"

/* Ranks that wait meet rank 0 this often, well within any deadline. */
enum { CHARACTERS_PER_ROUND = 32 };

/* Draw from p^(1/temperature), or the largest for temperature 0; u is in [0, 1). */
static token draw(const real *probs, int n, double temperature, double u)
{
    double sum = 0;
    int last = 0;
    for (int i = 1; i < n; i++)
        last = probs[i] > probs[last] ? i : last;
    if (temperature <= 0)
        return (token)last;
    for (int i = 0; i < n; i++)
        sum += pow((double)probs[i], 1 / temperature);
    u *= sum;
    for (int i = 0; i < n; i++) {
        u -= pow((double)probs[i], 1 / temperature);
        if (u < 0)
            return (token)i;
    }
    return (token)last;
}

static token next_token(trainer *t, const token *tokens, size_t n)
{
    size_t context = (size_t)t->s.n_ctx, time = n < context ? n : context;
    int n_vocab = t->text.n_vocab;
    model_forward(t->gpt, (model_batch){tokens + n - time, NULL, 1, (int)time});
    const real *probs = model_probs(t->gpt) + (time - 1) * (size_t)n_vocab;
    uint64_t bits = random_bits((uint64_t)t->s.seed, RANDOM_SAMPLE, n, 0, 0);
    return draw(probs, n_vocab, t->s.temperature, random_uniform(bits));
}

static char *decode_all(const data *d, const token *tokens, size_t n)
{
    char *text = malloc(4 * n + 1), *end = text;
    for (size_t i = 0; text && i < n; i++) {
        char character[5];
        data_decode(d, tokens[i], character);
        size_t length = strlen(character);
        length += length == 0; /* U+0000 */
        memcpy(end, character, length);
        end += length;
    }
    if (text)
        *end = '\0';
    return text;
}

zopt_status sample_text(trainer *t, char **text)
{
    size_t n = t->n_prompt, end = n + (size_t)t->s.sample_length;
    token *tokens = t->rank == 0 ? calloc(end, sizeof *tokens) : NULL; /* the others only wait */
    *text = NULL;
    zopt_status status = trainer_load_params(t);
    if (tokens)
        memcpy(tokens, t->prompt, n * sizeof *tokens);
    else if (t->rank == 0 && status == ZOPT_OK)
        status = train_fail(ZOPT_ERR_MEMORY, "no memory for the sample");
    for (status = trainer_agree(t, status); status == ZOPT_OK && n < end;
         status = trainer_agree(t, ZOPT_OK)) {
        size_t stop = end - n < CHARACTERS_PER_ROUND ? end : n + CHARACTERS_PER_ROUND;
        for (; n < stop; n++)
            if (tokens)
                tokens[n] = next_token(t, tokens, n);
    }
    if (status == ZOPT_OK && tokens) {
        *text = decode_all(&t->text, tokens, n);
        if (!*text)
            status = train_fail(ZOPT_ERR_MEMORY, "no memory for the sample");
    }
    free(tokens);
    return trainer_agree(t, status);
}
