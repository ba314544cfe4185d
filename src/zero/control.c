/* Overflow, clipping and the loss scale. Rules: any non-finite sum skips the step; the scale halves
 * when `hysteresis` overflows have been seen and doubles after growth_interval good steps, which
 * also forgives past overflows; the scale of a step is what its gradients were multiplied with. */
#include "zero/control.h"

#include <math.h>

void zi_scale_start(const zi_scale_rules *rules, double scale, zi_scale_state *state)
{
    *state = (zi_scale_state){.scale = scale, .hysteresis_left = rules->hysteresis};
}

static int overflow(const zi_scale_rules *rules, zi_scale_state *state)
{
    int lowest = !rules->dynamic || state->scale <= rules->min_scale;
    state->n_good = 0;
    if (lowest) {
        state->n_skips++;
        return state->n_skips >= rules->max_consecutive_skips;
    }
    if (state->hysteresis_left > 1) {
        state->hysteresis_left--;
        return 0;
    }
    state->scale = fmax(state->scale / 2, rules->min_scale);
    return 0;
}

static void good(const zi_scale_rules *rules, zi_scale_state *state)
{
    state->n_skips = 0;
    if (!rules->dynamic || ++state->n_good < rules->growth_interval)
        return;
    state->n_good = 0;
    state->hysteresis_left = rules->hysteresis;
    /* The scale is handed out as a float and gradients are multiplied with it: never to infinity.
     */
    if (state->scale <= 0x1p126)
        state->scale *= 2;
}

zi_decision zi_decide(const zi_scale_rules *rules, zi_scale_state *state, int measured,
                      double sum_of_squares, int64_t n_bad)
{
    double divisor = rules->slots * state->scale;
    zi_decision decision = {.norm = NAN, .clip = 1.0};
    if (measured && n_bad > 0) {
        decision.skip = 1;
        decision.give_up = overflow(rules, state);
        return decision;
    }
    if (measured) {
        decision.norm = sqrt(sum_of_squares) / divisor;
        if (rules->clip_norm > 0)
            decision.clip = fmin(1.0, rules->clip_norm / (decision.norm + 1e-6));
    }
    decision.coef = decision.clip / divisor;
    good(rules, state);
    return decision;
}
