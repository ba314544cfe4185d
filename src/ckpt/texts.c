/* See texts.h. */
#include "ckpt/texts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/locale.h"
#include "base/status.h"

enum { FIRST_ROOM = 16 };

/* Takes both strings, also where it fails. */
static zopt_status add(zi_texts *texts, char *key, char *value)
{
    if (texts->n == texts->room) {
        uint32_t room = texts->room > 0 ? 2 * texts->room : FIRST_ROOM;
        zi_file_text *more = realloc(texts->text, room * sizeof *more);
        texts->text = more != NULL ? more : texts->text;
        texts->room = more != NULL ? room : texts->room;
    }
    if (key == NULL || value == NULL || texts->n == texts->room) {
        free(key);
        free(value);
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for %u texts of a checkpoint", texts->n);
    }
    texts->text[texts->n++] = (zi_file_text){key, value};
    return ZOPT_OK;
}

zopt_status zi_texts_add(zi_texts *texts, const char *key, const char *format, ...)
{
    char *value = NULL;
    va_list args;
    locale_t callers = zi_locale_enter();
    va_start(args, format);
    int n = vasprintf(&value, format, args);
    va_end(args);
    zi_locale_leave(callers);
    return add(texts, strdup(key), n < 0 ? NULL : value);
}

static zi_file_text *find(const zi_texts *texts, const char *key)
{
    for (uint32_t i = 0; i < texts->n; i++)
        if (strcmp(texts->text[i].key, key) == 0)
            return &texts->text[i];
    return NULL;
}

zopt_status zi_texts_set(zi_texts *texts, const char *key, const char *value)
{
    zi_file_text *text = find(texts, key);
    if (text == NULL)
        return zi_texts_add(texts, key, "%s", value);
    char *copy = strdup(value);
    if (copy == NULL)
        return ZI_FAIL(ZOPT_ERR_MEMORY, "no memory for a text of a checkpoint");
    free((char *)text->value);
    text->value = copy;
    return ZOPT_OK;
}

const char *zi_texts_get(const zi_texts *texts, const char *key)
{
    const zi_file_text *text = find(texts, key);
    return text != NULL ? text->value : NULL;
}

void zi_texts_free(zi_texts *texts)
{
    for (uint32_t i = 0; i < texts->n; i++) {
        free((char *)texts->text[i].key);
        free((char *)texts->text[i].value);
    }
    free(texts->text);
    memset(texts, 0, sizeof *texts);
}

uint64_t zi_texts_hash(const zi_texts *texts)
{
    uint64_t hash = 0;
    for (uint32_t i = 0; i < texts->n; i++) {
        hash = XXH3_64bits_withSeed(texts->text[i].key, strlen(texts->text[i].key) + 1, hash);
        hash = XXH3_64bits_withSeed(texts->text[i].value, strlen(texts->text[i].value) + 1, hash);
    }
    return hash;
}
