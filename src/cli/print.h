/* How results look for people. Everything that came from a guest or a client is cleaned of control characters first.
 * Functions take the JSON that --json would print (borrowed). */
#ifndef FT_CLI_PRINT_H
#define FT_CLI_PRINT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

void ft_print_status(FILE *file, const json_t *status);
void ft_print_guests(FILE *file, const json_t *guests); /* {NAME: {...}} */
void ft_print_holds(FILE *file, const json_t *holds);
void ft_print_verdicts(FILE *file, const json_t *verdicts);
void ft_print_story(FILE *file, const json_t *hold);                             /* src/log/hold.md */

/* The header of the verdict table, and one row: a record of src/log/hold.md or a summary of one. */
void ft_print_head(FILE *file);
void ft_print_row(FILE *file, const json_t *hold);

/* Helpers for rows from elsewhere: text by a dotted path, cleaned, "" when it is not there; a wall-clock time. */
const char *ft_print_text(const json_t *json, const char *path, char *text, size_t size);
const json_t *ft_print_at(const json_t *json, const char *path);
const char *ft_print_time(json_int_t ns, bool date, char text[40]);

void ft_print_shadow(FILE *file, const json_t *report);
void ft_print_suppression(FILE *file, const json_t *entry);
void ft_print_suppressions(FILE *file, const json_t *entries);

#endif
