/* The table of optimizers, and look-up by name. Adding one: a rule header, its line in rules.h, a
 * file with its row, and its line here. */
#include "optim/optim.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/status.h"
#include "optim/rows.h"

const zi_optim *const zi_optims[] = {
    &zi_optim_adamw,     &zi_optim_adam,     &zi_optim_sgd,
    &zi_optim_rmsprop,   &zi_optim_adagrad,  &zi_optim_lion,
    &zi_optim_adafactor, &zi_optim_adam8bit, &zi_optim_adamw8bit,
};
const size_t zi_n_optims = sizeof zi_optims / sizeof zi_optims[0];

enum { MAX_NAMES = 64, MAX_TEXT = 400 };

zopt_status zi_optim_find(const char *name, const zi_optim **out)
{
    const char *names[MAX_NAMES];
    *out = NULL;
    for (size_t i = 0; i < zi_n_optims; i++) {
        names[i] = zi_optims[i]->name;
        if (strcasecmp(name, names[i]) == 0) {
            *out = zi_optims[i];
            return ZOPT_OK;
        }
    }
    const char *near = zi_nearest(name, names, zi_n_optims, sizeof *names);
    char all[MAX_TEXT] = "";
    for (size_t i = 0; i < zi_n_optims; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i > 0 ? ", " : "", names[i]);
    return near ? ZI_FAIL(ZOPT_ERR_CONFIG, "unknown optimizer '%s'; did you mean '%s'", name, near)
                : ZI_FAIL(ZOPT_ERR_CONFIG, "unknown optimizer '%s'; there are %s", name, all);
}
