/*
 * fuzz.h -- what the fuzz targets share.  A target is a file with fuzz_one(): it gets bytes, must neither
 * crash, leak, hang nor end the program, and says "no" to bad input through struct err.
 *
 * Built with driver.c it replays files and mutations of them (the tests do, under sanitizers); with
 * -Dfuzz=true and clang it is a libFuzzer program.
 */
#ifndef FUZZ_H
#define FUZZ_H
#include <stddef.h>
#include <stdint.h>

void fuzz_one(const uint8_t *data, size_t size);

/* A folder of this process, removed at its end, and a file in it written over; the path is static. */
const char *fuzz_dir(void);
const char *fuzz_file(const char *name, const void *data, size_t size);

#endif
