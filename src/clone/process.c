#include "clone/process.h"

#include <stdio.h>
#include <string.h>

void ft_processes_clear(struct ft_processes *table)
{
	memset(table, 0, sizeof(*table));
}

static struct ft_process *bucket(struct ft_processes *table, uint64_t cr3)
{
	uint64_t mixed = (cr3 >> 12) * 0x9e3779b97f4a7c15ull;
	return &table->entries[(mixed >> 58) % FT_PROCESS_BUCKETS * FT_PROCESS_WAYS];
}

struct ft_process *ft_process_find(struct ft_processes *table, uint64_t cr3)
{
	struct ft_process *p = bucket(table, cr3);
	for (unsigned i = 0; cr3 && i < FT_PROCESS_WAYS; i++)
		if (p[i].cr3 == cr3) {
			p[i].used = ++table->clock;
			return &p[i];
		}
	return NULL;
}

struct ft_process *ft_process_find_pid(struct ft_processes *table, int64_t pid)
{
	struct ft_process *best = NULL;
	for (unsigned i = 0; pid > 0 && i < FT_PROCESS_BUCKETS * FT_PROCESS_WAYS; i++) {
		struct ft_process *p = &table->entries[i];
		/* Process ids are reused: the one seen last. */
		if (p->cr3 && p->pid == pid && (!best || p->used > best->used))
			best = p;
	}
	return best;
}

struct ft_process *ft_process_get(struct ft_processes *table, uint64_t cr3)
{
	struct ft_process *found = ft_process_find(table, cr3);
	if (found)
		return found;
	struct ft_process *p = bucket(table, cr3), *oldest = p;
	for (unsigned i = 0; i < FT_PROCESS_WAYS; i++)
		if (p[i].used < oldest->used)
			oldest = &p[i];
	*oldest = (struct ft_process){.cr3 = cr3, .used = ++table->clock, .pid = -1};
	return oldest;
}

struct ft_process *ft_process_copy(struct ft_processes *table, uint64_t cr3, const struct ft_process *from)
{
	struct ft_process copy = from ? *from : (struct ft_process){.pid = -1};
	struct ft_process *process = ft_process_get(table, cr3);
	uint64_t used = process->used;
	*process = copy;
	process->cr3 = cr3;
	process->used = used;
	process->born_of = 0;
	process->faulted = false;
	return process;
}

void ft_process_set_name(struct ft_process *process, const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	size_t n = strnlen(name, FT_PROCESS_NAME - 1);
	memset(process->name, 0, sizeof(process->name));
	memcpy(process->name, name, n);
}

void ft_process_resolve(const struct ft_process *process, const char *path, char *to, uint32_t size)
{
	while (path[0] == '.' && path[1] == '/')
		path += 2;
	if (path[0] == '/' || !path[0] || !process || !process->directory[0])
		snprintf(to, size, "%s", path);
	else if (!strcmp(path, "."))
		snprintf(to, size, "%s", process->directory);
	else
		snprintf(to, size, "%s/%s", strcmp(process->directory, "/") ? process->directory : "", path);
}
