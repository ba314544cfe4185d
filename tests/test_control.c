/* The decision of a step against traces written by hand from section 5 of the design: every number
 * is a literal, worked out in the comment beside it. */
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "device/control.h"

/* One step: what was measured, what must be decided, and the scale of the next step. */
typedef struct step {
    double sum_of_squares;
    int n_bad;
    int skip, give_up;
    double coef, next_scale;
} step;

#define GOOD(coef, next_scale)         \
    {                                  \
        1.0, 0, 0, 0, coef, next_scale \
    }
#define BAD(give_up, next_scale)            \
    {                                       \
        1.0, 3, 1, give_up, 0.0, next_scale \
    }
#define N_STEPS(trace) (int)(sizeof trace / sizeof trace[0])

static void follow(const zi_scale_rules *rules, double scale, const step *trace, int n)
{
    zi_scale_state state;
    zi_scale_start(rules, scale, &state);
    ck_assert(state.scale == scale);
    for (int i = 0; i < n; i++) {
        zi_decision d = zi_decide(rules, &state, 1, trace[i].sum_of_squares, trace[i].n_bad);
        ck_assert_msg(d.skip == trace[i].skip, "step %d: skip %d", i, d.skip);
        ck_assert_msg(d.give_up == trace[i].give_up, "step %d: give_up %d", i, d.give_up);
        ck_assert_msg(state.scale == trace[i].next_scale, "step %d: scale %a", i, state.scale);
        ck_assert_msg(d.coef == trace[i].coef, "step %d: coef %a", i, d.coef);
        if (d.skip)
            ck_assert(isnan(d.norm));
    }
}

/* Four slots throughout: coef = 1 / (4 * scale of this step). */
static const zi_scale_rules dynamic = {.dynamic = 1,
                                       .min_scale = 1,
                                       .growth_interval = 3,
                                       .hysteresis = 1,
                                       .max_consecutive_skips = 3,
                                       .slots = 4};

START_TEST(scale_doubles_after_every_growth_interval)
{
    static const step trace[] = {
        GOOD(0x1p-5, 8),  GOOD(0x1p-5, 8),  GOOD(0x1p-5, 16), /* 1/(4*8); the third doubles 8 */
        GOOD(0x1p-6, 16), GOOD(0x1p-6, 16), GOOD(0x1p-6, 32), /* 1/(4*16) */
        GOOD(0x1p-7, 32),                                     /* 1/(4*32) */
    };
    follow(&dynamic, 8, trace, N_STEPS(trace));
}
END_TEST

START_TEST(an_overflow_halves_at_once_and_restarts_the_count_to_growth)
{
    static const step trace[] = {
        GOOD(0x1p-6, 16), GOOD(0x1p-6, 16),            /* two good ones at 16: 1/64 */
        BAD(0, 8),                                     /* 16 / 2 */
        GOOD(0x1p-5, 8),  GOOD(0x1p-5, 8),             /* the two before do not count: 1/32 */
        GOOD(0x1p-5, 16),                              /* the third since: 8 * 2 */
        BAD(0, 8),        BAD(0, 4),        BAD(0, 2), /* one after the other */
        GOOD(0x1p-3, 2),                               /* 1/(4*2) */
    };
    follow(&dynamic, 16, trace, N_STEPS(trace));
}
END_TEST

START_TEST(hysteresis_lets_overflows_pass_until_growth_renews_it)
{
    zi_scale_rules rules = dynamic;
    rules.hysteresis = 3;
    rules.growth_interval = 2;
    static const step trace[] = {
        BAD(0, 64),                         /* first of three */
        GOOD(0x1p-8, 64),                   /* 1/(4*64); a good step renews nothing */
        BAD(0, 64),                         /* second */
        BAD(0, 32),                         /* third: halves */
        BAD(0, 16),                         /* used up: each one halves */
        GOOD(0x1p-6, 16), GOOD(0x1p-6, 32), /* two good ones: doubles, three allowed again */
        BAD(0, 32),       BAD(0, 32),       BAD(0, 16),
    };
    follow(&rules, 64, trace, N_STEPS(trace));
}
END_TEST

START_TEST(at_the_minimum_scale_repeated_skips_give_up)
{
    zi_scale_rules rules = dynamic;
    rules.min_scale = 4;
    static const step trace[] = {
        BAD(0, 8),       BAD(0, 4), /* 16 -> 8 -> 4: the scale could go lower, none counts */
        BAD(0, 4),       BAD(0, 4), /* first and second at the minimum */
        GOOD(0x1p-4, 4),            /* 1/(4*4); the count starts again */
        BAD(0, 4),       BAD(0, 4), BAD(1, 4), /* the third in a row: max_consecutive_skips */
    };
    follow(&rules, 16, trace, N_STEPS(trace));
}
END_TEST

START_TEST(the_minimum_scale_is_a_floor_also_between_powers_of_two)
{
    zi_scale_rules rules = dynamic;
    rules.min_scale = 3;
    static const step trace[] = {
        BAD(0, 4), BAD(0, 3), /* 8 / 2, then 4 / 2 = 2 is below 3 */
        BAD(0, 3), BAD(0, 3), BAD(1, 3),
    };
    follow(&rules, 8, trace, N_STEPS(trace));
}
END_TEST

START_TEST(growth_stops_at_two_to_the_127)
{
    zi_scale_rules rules = dynamic;
    rules.growth_interval = 1;
    static const step trace[] = {
        GOOD(0x1p-127, 0x1p126),                  /* 1/(4 * 2^125) */
        GOOD(0x1p-128, 0x1p127),                  /* 1/(4 * 2^126) */
        GOOD(0x1p-129, 0x1p127),                  /* 2^128 would be infinite as a float */
        GOOD(0x1p-129, 0x1p127), BAD(0, 0x1p126), /* and it comes down as before */
    };
    follow(&rules, 0x1p125, trace, N_STEPS(trace));
}
END_TEST

START_TEST(a_static_scale_never_moves_and_gives_up_after_repeated_skips)
{
    zi_scale_rules rules = dynamic;
    rules.dynamic = 0;
    rules.growth_interval = 1;
    static const step trace[] = {
        GOOD(0x1p-12, 1024), GOOD(0x1p-12, 1024), /* 1/(4*1024): no growth */
        BAD(0, 1024),        BAD(0, 1024),        /* no halving; two in a row */
        GOOD(0x1p-12, 1024),                      /* ends the row */
        BAD(0, 1024),        BAD(0, 1024),        BAD(1, 1024),
    };
    follow(&rules, 1024, trace, N_STEPS(trace));
}
END_TEST

START_TEST(clipping_scales_to_the_norm_of_the_unscaled_average)
{
    zi_scale_rules rules = dynamic;
    rules.growth_interval = 1000;
    /* Scale 8 and 4 slots: the sum is 32 times the average, its square 1024 times. */
    static const struct {
        double clip_norm, sum_of_squares, norm, clip, coef;
    } rows[] = {
        {1, 256, 0.5, 1, 0x1p-5},                                    /* sqrt(256)/32; below: 1/32 */
        {1, 0, 0, 1, 0x1p-5},                                        /* nothing to clip */
        {1, 1024, 1, 0.999999000000999999, 0.03124996875003124997},  /* 1/1.000001, /32 */
        {1, 16384, 4, 0.249999937500015625, 0.00781249804687548828}, /* 1/4.000001, /32 */
        {0.5, 16384, 4, 0.1249999687500078125, 0.00390624902343774414}, /* half of it */
        {1e-6, 0, 0, 1, 0x1p-5},  /* 1e-6/(0 + 1e-6): exactly at the bound */
        {0, 16384, 4, 1, 0x1p-5}, /* 0: off, the norm is still told */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        zi_scale_state state;
        rules.clip_norm = rows[i].clip_norm;
        zi_scale_start(&rules, 8, &state);
        zi_decision d = zi_decide(&rules, &state, 1, rows[i].sum_of_squares, 0);
        ck_assert(d.skip == 0 && d.give_up == 0);
        ck_assert(d.norm == rows[i].norm);
        /* Four roundings of 2^-53: of 1e-6, the sum, the quotient, and the literal. */
        ck_assert_double_eq_tol(d.clip, rows[i].clip, 4 * 0x1p-53 * rows[i].clip);
        ck_assert_double_eq_tol(d.coef, rows[i].coef, 4 * 0x1p-53 * rows[i].coef);
        if (rows[i].clip == 1)
            ck_assert(d.clip == 1 && d.coef == 0x1p-5);
    }
}
END_TEST

START_TEST(without_sums_every_step_is_good_and_has_no_norm)
{
    zi_scale_rules rules = dynamic;
    zi_scale_state state;
    rules.clip_norm = 1;
    rules.growth_interval = 2;
    zi_scale_start(&rules, 2, &state);
    for (int i = 0; i < 2; i++) {
        zi_decision d = zi_decide(&rules, &state, 0, 0, 0);
        ck_assert(d.skip == 0 && d.give_up == 0 && d.clip == 1);
        ck_assert(isnan(d.norm));
        ck_assert(d.coef == 0.125); /* 1/(4*2) */
    }
    ck_assert(state.scale == 4); /* the second good one doubled 2 */
}
END_TEST

START_TEST(the_coefficient_of_three_slots_is_rounded_once_in_double)
{
    zi_scale_rules rules = dynamic;
    zi_scale_state state;
    rules.slots = 3;
    zi_scale_start(&rules, 4, &state);
    zi_decision d = zi_decide(&rules, &state, 1, 144, 0);
    ck_assert(d.norm == 1);                    /* sqrt(144) / (3*4) */
    ck_assert(d.coef == 0x1.5555555555555p-4); /* 1/12 = 0.000101010..b, the digits after cut off */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("control");
    TCase *tcase = tcase_create("control");
    tcase_add_test(tcase, scale_doubles_after_every_growth_interval);
    tcase_add_test(tcase, an_overflow_halves_at_once_and_restarts_the_count_to_growth);
    tcase_add_test(tcase, hysteresis_lets_overflows_pass_until_growth_renews_it);
    tcase_add_test(tcase, at_the_minimum_scale_repeated_skips_give_up);
    tcase_add_test(tcase, the_minimum_scale_is_a_floor_also_between_powers_of_two);
    tcase_add_test(tcase, growth_stops_at_two_to_the_127);
    tcase_add_test(tcase, a_static_scale_never_moves_and_gives_up_after_repeated_skips);
    tcase_add_test(tcase, clipping_scales_to_the_norm_of_the_unscaled_average);
    tcase_add_test(tcase, without_sums_every_step_is_good_and_has_no_norm);
    tcase_add_test(tcase, the_coefficient_of_three_slots_is_rounded_once_in_double);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
