/* mem.h -- allocation that cannot fail (it ends the program instead), but for mem_try, and growable arrays.
 */
#ifndef MEM_H
#define MEM_H
#include <stddef.h>

void *mem_alloc(size_t n);                      /* uninitialised; n == 0 is fine */
void *mem_try(size_t n);                        /* the same, but NULL when there is none: for sizes that
						   somebody outside names */
void *mem_zero(size_t n, size_t size);          /* n elements of size bytes, zeroed; overflow-checked */
void *mem_grow(void *p, size_t n, size_t size); /* realloc to n elements; overflow-checked */
char *mem_str(const char *s);                   /* strdup; NULL gives NULL */
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Makes room for one more element and names it: `MEM_PUSH(list, count, cap) = x;` */
#define MEM_PUSH(list, count, cap)                                                                           \
	(*((count) == (cap) ? (void)((cap) = (cap) ? 2 * (cap) : 8,                                          \
				     (list) = mem_grow((list), (size_t)(cap), sizeof *(list)))               \
			    : (void)0,                                                                       \
	   (list) + (count)++))

#endif
