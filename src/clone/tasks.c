#include "clone/tasks.h"

#include <stdlib.h>
#include <string.h>

#include "clone/observe.h"
#include "vmm/engine/walk.h"

#define AROUND   (64ull << 20) /* type information and first task lie so far behind the kernel's first code at most */
#define TYPES    (4ull << 20)  /* most types; a distribution's kernel has 150,000 */
#define BTF_MOST (32ull << 20) /* bytes; it has 5 MiB */
#define DEPTH    8u            /* of unnamed structures in structures */

/* ---- Type information ------------------------------------------------------------------------------------------- */

struct header {
	uint16_t magic;
	uint8_t version, flags;
	uint32_t length, type_at, type_length, string_at, string_length;
};
#define MAGIC 0xeb9fu

enum kind { INT = 1, ARRAY = 3, STRUCT = 4, UNION = 5, ENUM = 6, FUNC_PROTO = 13, VAR = 14, DATASEC = 15, DECL_TAG = 17, ENUM64 = 19, KINDS };

struct type {
	uint32_t name, info, size;
};

struct member {
	uint32_t name, type, offset;
};

struct btf {
	uint8_t *bytes; /* types, then strings */
	uint32_t type_length, string_length;
	uint32_t *at;   /* of each type, from number 1 on */
	uint32_t count;
};

static unsigned kind_of(const struct type *t)
{
	return t->info >> 24 & 31;
}

/* Bytes behind a type of its kind. */
static uint64_t extra(const struct type *t)
{
	uint64_t entries = t->info & 0xffff;
	switch (kind_of(t)) {
	case INT:
	case VAR:
	case DECL_TAG:
		return 4;
	case ARRAY:
		return 12;
	case STRUCT:
	case UNION:
	case DATASEC:
	case ENUM64:
		return entries * 12;
	case ENUM:
	case FUNC_PROTO:
		return entries * 8;
	}
	return 0;
}

static const char *string_of(const struct btf *b, uint32_t at)
{
	return at < b->string_length ? (const char *)b->bytes + b->type_length + at : "";
}

static struct type type_at(const struct btf *b, uint32_t number)
{
	struct type t = {0};
	if (number && number <= b->count)
		memcpy(&t, b->bytes + b->at[number - 1], sizeof(t));
	return t;
}

static bool index_types(struct btf *b)
{
	b->count = 0;
	for (uint64_t at = 0; at < b->type_length;) {
		struct type t;
		if (b->type_length - at < sizeof(t) || b->count == TYPES)
			return false;
		memcpy(&t, b->bytes + at, sizeof(t));
		uint64_t length = sizeof(t) + extra(&t);
		if (!kind_of(&t) || kind_of(&t) >= KINDS || b->type_length - at < length)
			return false;
		b->at[b->count++] = (uint32_t)at;
		at += length;
	}
	return b->count != 0;
}

/* Byte offset of a member by its name, in the structure or in what lies in it without a name of its own. */
static bool find_member(const struct btf *b, uint32_t number, const char *name, unsigned depth, uint32_t *offset)
{
	struct type t = type_at(b, number);
	if ((kind_of(&t) != STRUCT && kind_of(&t) != UNION) || depth == DEPTH)
		return false;
	for (uint32_t i = 0; i < (t.info & 0xffff); i++) {
		struct member m;
		uint32_t within;
		memcpy(&m, b->bytes + b->at[number - 1] + sizeof(t) + i * sizeof(m), sizeof(m));
		uint32_t bits = t.info >> 31 ? m.offset & 0xffffff : m.offset;
		const char *own = string_of(b, m.name);
		if (!strcmp(own, name)) {
			*offset = bits / 8;
			return bits % 8 == 0;
		}
		if (!*own && find_member(b, m.type, name, depth + 1, &within)) {
			*offset = bits / 8 + within;
			return true;
		}
	}
	return false;
}

static uint32_t find_structure(const struct btf *b, const char *name)
{
	for (uint32_t number = 1; number <= b->count; number++) {
		struct type t = type_at(b, number);
		if (kind_of(&t) == STRUCT && !strcmp(string_of(b, t.name), name))
			return number;
	}
	return 0;
}

static bool lay_out(struct ft_tasks *tasks, const struct btf *b)
{
	uint32_t task = find_structure(b, "task_struct"), mm = find_structure(b, "mm_struct");
	const struct {
		uint32_t in;
		const char *name;
		uint32_t *to;
	} wanted[] = {{task, "tasks", &tasks->list}, {task, "tgid", &tasks->group}, {task, "comm", &tasks->name},
		      {task, "mm", &tasks->memory},  {mm, "pgd", &tasks->top}};
	for (unsigned i = 0; i < sizeof(wanted) / sizeof(*wanted); i++)
		if (!find_member(b, wanted[i].in, wanted[i].name, 0, wanted[i].to) || *wanted[i].to > 1u << 16)
			return false;
	return true;
}

/* *after: the physical address behind it. */
static bool read_types(struct ft_tasks *tasks, const struct ft_memory *ram, uint64_t at, const struct header *h, uint64_t *after)
{
	struct btf b = {.type_length = h->type_length, .string_length = h->string_length};
	uint64_t length = (uint64_t)h->type_length + h->string_length;
	bool good = false;
	b.bytes = malloc(length + 1);
	b.at = malloc(h->type_length / sizeof(struct type) * sizeof(*b.at));
	if (b.bytes && b.at && ft_memory_read(ram, ft_gpa_make(at + h->length), b.bytes, length)) {
		b.bytes[length] = 0; /* the end of the last string */
		good = index_types(&b) && lay_out(tasks, &b);
	}
	*after = at + h->length + length;
	free(b.bytes);
	free(b.at);
	return good;
}

static bool is_header(const struct header *h)
{
	return h->magic == MAGIC && h->version == 1 && !h->flags && h->length == sizeof(*h) && !h->type_at &&
	       h->string_at == h->type_length && h->type_length >= sizeof(struct type) && h->type_length % 4 == 0 &&
	       h->string_length && (uint64_t)h->type_length + h->string_length <= BTF_MOST;
}

static bool find_types(struct ft_tasks *tasks, const struct ft_memory *ram, uint64_t from, uint64_t *after)
{
	uint8_t page[FT_PAGE_SIZE + sizeof(struct header)] = {0};
	for (uint64_t at = from & ~(uint64_t)(FT_PAGE_SIZE - 1); at < from + AROUND; at += FT_PAGE_SIZE) {
		uint64_t length = ram->size - at < sizeof(page) ? FT_PAGE_SIZE : sizeof(page);
		if (!ft_memory_read(ram, ft_gpa_make(at), page, length))
			return false;
		for (unsigned i = 0; i < FT_PAGE_SIZE; i += 4) {
			struct header h;
			if (page[i] != (MAGIC & 0xff) || page[i + 1] != MAGIC >> 8)
				continue;
			memcpy(&h, page + i, sizeof(h));
			if (is_header(&h) && read_types(tasks, ram, at + i, &h, after))
				return true;
		}
	}
	return false;
}

/* ---- Tasks -------------------------------------------------------------------------------------------------------- */

struct links {
	uint64_t next, before;
};

static bool read_at(const struct ft_memory *ram, uint64_t cr3, uint64_t va, void *to, size_t length)
{
	return ft_walk_read(ram, cr3, va, false, to, length) == length;
}

/* Is there a task at gpa: is it what the list's next one calls the one before? */
static bool is_task(const struct ft_tasks *tasks, const struct ft_memory *ram, uint64_t cr3, uint64_t gpa)
{
	struct links own, next;
	uint64_t back;
	return ft_memory_read(ram, ft_gpa_make(gpa + tasks->list), &own, sizeof(own)) && read_at(ram, cr3, own.next, &next, sizeof(next)) &&
	       ft_walk(ram, cr3, next.before, false, &back) && back == gpa + tasks->list;
}

/* The idle task of the first processor is part of the kernel's image. */
static bool find_first(struct ft_tasks *tasks, const struct ft_memory *ram, uint64_t cr3, uint64_t from)
{
	static const char name[] = "swapper";
	uint8_t page[FT_PAGE_SIZE];
	for (uint64_t at = from & ~(uint64_t)(FT_PAGE_SIZE - 1); at < from + AROUND; at += FT_PAGE_SIZE) {
		if (!ft_memory_read(ram, ft_gpa_make(at), page, sizeof(page)))
			return false;
		for (uint8_t *hit = page; (hit = memmem(hit, (size_t)(page + sizeof(page) - hit), name, sizeof(name) - 1)); hit++) {
			tasks->first = at + (uint64_t)(hit - page) - tasks->name;
			if (tasks->first % 8 == 0 && is_task(tasks, ram, cr3, tasks->first))
				return true;
		}
	}
	return false;
}

bool ft_tasks_find(struct ft_tasks *tasks, const struct ft_memory *ram, uint64_t cr3, uint64_t lstar)
{
	uint64_t code, after = 0;
	*tasks = (struct ft_tasks){0};
	tasks->found = ft_walk(ram, cr3, lstar, false, &code) && find_types(tasks, ram, code, &after) && find_first(tasks, ram, cr3, after);
	return tasks->found;
}

/* A kernel's thread has no memory of its own; a process's name is its first thread's. */
static bool read_task(const struct ft_tasks *tasks, const struct ft_memory *ram, uint64_t cr3, uint64_t task, struct ft_processes *table)
{
	uint64_t mm, top, own;
	uint32_t group;
	char name[FT_PROCESS_NAME], text[4 * FT_PROCESS_NAME];
	if (!read_at(ram, cr3, task + tasks->memory, &mm, sizeof(mm)) || !mm || !read_at(ram, cr3, mm + tasks->top, &top, sizeof(top)) ||
	    !ft_walk(ram, cr3, top, false, &own) || !read_at(ram, cr3, task + tasks->group, &group, sizeof(group)) ||
	    !read_at(ram, cr3, task + tasks->name, name, sizeof(name)) || group > INT32_MAX)
		return false;
	struct ft_process *process = ft_process_get(table, own & ~(uint64_t)(FT_PAGE_SIZE - 1));
	ft_observe_printable(name, strnlen(name, sizeof(name)), text, sizeof(text));
	ft_process_set_name(process, text);
	process->pid = group;
	return true;
}

unsigned ft_tasks_read(const struct ft_tasks *tasks, const struct ft_memory *ram, uint64_t cr3, struct ft_processes *table)
{
	struct links at;
	unsigned count = 0;
	if (!tasks->found || !ft_memory_read(ram, ft_gpa_make(tasks->first + tasks->list), &at, sizeof(at)))
		return 0;
	for (unsigned i = 0; i < FT_TASKS_MOST; i++) {
		uint64_t here = at.next, gpa;
		if (!ft_walk(ram, cr3, here, false, &gpa) || gpa == tasks->first + tasks->list || !read_at(ram, cr3, here, &at, sizeof(at)))
			break;
		count += read_task(tasks, ram, cr3, here - tasks->list, table);
	}
	return count;
}
