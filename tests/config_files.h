/* What the files of test_config share. A test's run file is file_path. */
#ifndef TESTS_CONFIG_FILES_H
#define TESTS_CONFIG_FILES_H

#include <check.h>
#include <zopt/zopt.h>

extern char file_path[40];

void write_file(const char *text, size_t length);
/* Written, loaded, not resolved. */
zopt_config *load(const char *text);

#define COUNT(rows) (int)(sizeof(rows) / sizeof(rows)[0])

void add_refusals(TCase *tests);

#endif
