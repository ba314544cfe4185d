/* UTF-8, strict: no overlong forms, no surrogates, nothing above U+10FFFF. Source: RFC 3629. */
#ifndef TRAIN_UTF8_H
#define TRAIN_UTF8_H

#include <stddef.h>
#include <stdint.h>

enum { UTF8_CODE_POINTS = 0x110000 };

/* Read the code point at bytes[0..n), n >= 1. Returns its length, 0 where it is invalid. */
static inline int utf8_read(const unsigned char *bytes, size_t n, uint32_t *code_point)
{
    static const struct {
        unsigned char mask, lead;
        uint32_t lowest;
    } forms[4] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    for (int extra = 0; extra < 4; extra++) {
        if ((bytes[0] & forms[extra].mask) != forms[extra].lead)
            continue;
        if ((size_t)extra >= n)
            return 0;
        uint32_t c = (uint32_t)(bytes[0] & ~forms[extra].mask);
        for (int i = 1; i <= extra; i++) {
            if ((bytes[i] & 0xc0) != 0x80)
                return 0;
            c = c << 6 | (bytes[i] & 0x3f);
        }
        if (c < forms[extra].lowest || c >= UTF8_CODE_POINTS || (c >= 0xd800 && c < 0xe000))
            return 0;
        *code_point = c;
        return extra + 1;
    }
    return 0;
}

/* Write a valid code point. Returns its length. */
static inline int utf8_write(uint32_t c, char out[4])
{
    int extra = (c >= 0x80) + (c >= 0x800) + (c >= 0x10000);
    static const unsigned char leads[4] = {0x00, 0xc0, 0xe0, 0xf0};
    for (int i = extra; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(leads[extra] | c);
    return extra + 1;
}

#endif
