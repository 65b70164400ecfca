/* handles.h -- cmocka's set-up and tear-down of a test that must leave no tensor behind. */
#ifndef HANDLES_H
#define HANDLES_H
#include "aten/at.h"

static int64_t live_before;

static int count_handles(void **state)
{
	(void)state;
	live_before = at_live();
	return 0;
}

static int no_handle_left(void **state)
{
	(void)state;
	return at_live() == live_before ? 0 : -1;
}

#endif
