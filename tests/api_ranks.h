/* The part of test_api that takes several ranks. */
#ifndef TESTS_API_RANKS_H
#define TESTS_API_RANKS_H

#include <check.h>

void add_calls_of_several_ranks(TCase *tests);

#endif
