/* Being told to stop: a signal sets a flag, and the loop looks at it between steps. train_listen,
 * in train.h, begins to hear. */
#ifndef TRAIN_STOP_H
#define TRAIN_STOP_H

/* 1: this process has been told. */
int stop_wanted(void);

#endif
