/* A growing list of texts: a file's metadata while they are made, notes, rows of configuration. */
#ifndef ZI_CKPT_TEXTS_H
#define ZI_CKPT_TEXTS_H

#include "ckpt/tensorfile.h"

typedef struct zi_texts {
    zi_file_text *text; /* strings are the list's */
    uint32_t n, room;
} zi_texts;

/* Add one; the value is printed, as in C whatever the locale. Errors: ERR_MEMORY. */
zopt_status zi_texts_add(zi_texts *texts, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Add one, or replace the one of that key. */
zopt_status zi_texts_set(zi_texts *texts, const char *key, const char *value);
/* NULL: there is none. */
const char *zi_texts_get(const zi_texts *texts, const char *key);
/* Drop all. */
void zi_texts_free(zi_texts *texts);
/* Of keys and values, in their order. */
uint64_t zi_texts_hash(const zi_texts *texts);

#endif
