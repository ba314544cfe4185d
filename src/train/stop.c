/* SIGUSR1 is what launchers pass on to all ranks at once; a second SIGTERM ends the process.
 * Signals reach ranks at different times: they agree on the step in train.c. */
#include "train/stop.h"

#include <signal.h>
#include <stddef.h>

#include "train/train.h"

static volatile sig_atomic_t wanted; /* what a handler may write */

static void note(int number)
{
    (void)number;
    wanted = 1;
}

void train_listen(void)
{
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    action.sa_flags |= (int)SA_RESETHAND;
    sigaction(SIGTERM, &action, NULL);
}

int stop_wanted(void)
{
    return wanted;
}
