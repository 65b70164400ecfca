/* html_entities.h -- &NAME; of HTML 5 and what it stands for. */
#ifndef HTML_ENTITIES_H
#define HTML_ENTITIES_H
#include <stdbool.h>
#include <stddef.h>

/* UTF-8, of one or two characters; NULL: no entity is called so.  The name without '&' and ';'. */
const char *html_entity(const char *name, size_t size);
bool html_entity_legacy(const char *name, size_t size); /* it may stand without ';' */

#endif
