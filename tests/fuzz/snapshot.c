/* A snapshot's file by somebody who knows how to make one: any header, chunks of any kind and place in any order, packed and
 * authenticated as they should be, an index that may say something else, then a few bytes changed. It is refused with a reason, or it is a machine, and then what comes
 * back is what is in it: each page of RAM, each block of the disk, the state; and saved again it is the same. */
#include "input.h"

#include <errno.h>
#include <sodium.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "pc.h"
#include "snapshot/machine.h"
#include "vmm/dev/devices.h"
#include "vmm/state/image.h"

#define DISK   (1u << 16) /* bytes: 16 blocks */
#define BLOCKS (DISK / FT_DISK_BLOCK)
#define PAGES  (FT_SNAPSHOT_CHUNK / FT_PAGE_SIZE)
#define CHUNKS 12u
#define PAGE_ZEROS 3000u /* each page of RAM begins with so many: it is no page of zeros for that */
#define ROOM   (64 + 8 * FT_PAGE_SIZE) /* of a chunk: small ones say as much as large ones */

static const uint8_t key[FT_SNAPSHOT_KEY] = {1};

/* What should come back. */
struct model {
	uint8_t page[FT_RAM_MIN / FT_PAGE_SIZE]; /* what each of its bytes is */
	uint8_t block[BLOCKS];
	bool written[BLOCKS];
	bool unknown; /* a chunk was put as one of another kind */
	bool lies;    /* the index says something else than what was put */
};

static int new_file(void)
{
	int fd = memfd_create("snapshot", MFD_CLOEXEC);
	MUST(fd >= 0);
	return fd;
}

/* Bitmap and pages; mostly as many as the bitmap says. */
static uint32_t ram_chunk(struct input *in, uint64_t at, uint8_t *room, struct model *model)
{
	uint8_t how = input8(in), count = how & 7, fill = (uint8_t)(input8(in) | 1);
	uint32_t length = 64;
	memset(room, 0, ROOM);
	for (unsigned i = 0; i < count; i++) {
		unsigned page = input16(in) % PAGES;
		if (room[page / 8] >> page % 8 & 1)
			continue;
		room[page / 8] |= (uint8_t)(1u << page % 8);
		if (at % FT_SNAPSHOT_CHUNK == 0 && at < FT_RAM_MIN)
			model->page[at / FT_PAGE_SIZE + page] = fill;
		length += FT_PAGE_SIZE;
	}
	memset(room + 64, fill, length - 64);
	for (uint32_t page = 64; page < length; page += FT_PAGE_SIZE)
		memset(room + page, 0, PAGE_ZEROS);
	return how & 0x40 ? length + input8(in) - 128u : how & 0x80 ? input8(in) : length;
}

static uint32_t disk_chunk(struct input *in, uint8_t *room, struct model *model)
{
	uint8_t how = input8(in), fill = input8(in);
	uint32_t count = how & 7;
	memset(room, 0, ROOM);
	uint64_t block = input8(in) % 32;
	for (uint32_t i = 0; i < count; i++, block += how & 0x10 ? input8(in) % 8 - 2u : 1u) {
		memcpy(room + 8 + 8 * i, &block, 8);
		if (block < BLOCKS) {
			model->block[block] = fill;
			model->written[block] = true;
		}
	}
	uint32_t length = 8 + 8 * count;
	if (length + count * FT_DISK_BLOCK > ROOM)
		count = 7;
	memset(room + length, fill, count * FT_DISK_BLOCK);
	uint32_t said = how & 0x20 ? count + 1 : count;
	memcpy(room, &said, sizeof(said));
	length += count * FT_DISK_BLOCK;
	return how & 0x40 ? length + input8(in) - 128u : length;
}

static uint32_t state_chunk(struct input *in, uint8_t *room, const uint8_t *state, size_t length)
{
	uint8_t changes = input8(in) & 3;
	memcpy(room, state, length);
	for (uint8_t i = 0; i < changes; i++)
		room[input16(in) % length] ^= input8(in);
	return (uint32_t)length;
}

/* Puts the chunks that the input wants. */
static void put_chunks(struct input *in, struct ft_snapshot_writer *w, const uint8_t *state, size_t length, struct model *model)
{
	uint8_t *room = malloc(ROOM + 256 + length);
	uint64_t next[4] = {0};
	struct ft_error err = {0};
	for (unsigned i = 0; i < CHUNKS && in->left; i++) {
		if (*in->at == 0xff) {
			input8(in);
			break;
		}
		uint8_t what = input8(in), kind = i == 0 && !(what & 0x80) ? 1 : what & 3;
		uint64_t at = what & 0x40 ? (uint64_t)input16(in) << 12 : next[kind];
		uint32_t n = kind == FT_SNAPSHOT_RAM    ? ram_chunk(in, at, room, model)
			     : kind == FT_SNAPSHOT_DISK ? disk_chunk(in, room, model)
							: state_chunk(in, room, state, length);
		next[kind] = at + (kind == FT_SNAPSHOT_RAM ? FT_SNAPSHOT_CHUNK : 1);
		if (n > ROOM + 256)
			n = ROOM + 256;
		model->unknown |= what & 0x20;
		MUST(!ft_snapshot_put(w, what & 0x20 ? input8(in) : kind, at, room, n ? n : 1, &err));
	}
	free(room);
}

static void change_bytes(struct input *in, int fd, uint64_t size)
{
	for (uint8_t n = input8(in) & 3; n; n--) {
		uint64_t at = input8(in) & 1 ? size - 1 - input16(in) % size : input32(in) % size;
		uint8_t byte;
		MUST(pread(fd, &byte, 1, (off_t)at) == 1);
		byte ^= input8(in);
		MUST(pwrite(fd, &byte, 1, (off_t)at) == 1);
	}
	if (input8(in) & 1)
		MUST(!ftruncate(fd, (off_t)(size - input16(in) % (size + 1))));
}

static struct ft_snapshot_header make(struct input *in, int fd, const struct ft_snapshot_seal *seal, struct model *model)
{
	static uint8_t *state;
	static size_t length;
	static struct ft_snapshot_header right = {.memory = FT_RAM_MIN, .disk_size = DISK, .guest = "web"};
	struct ft_snapshot_writer w;
	struct ft_error err = {0};
	if (!state) {
		struct pc pc;
		pc_open(&pc, pc_disk_image(DISK));
		MUST(!ft_state_save(pc.m, &state, &length, &err));
		MUST(!ft_disk_sample(&pc.m->devices->blk.disk, &right.disk_sample));
		pc_close(&pc);
	}
	struct ft_snapshot_header header = right;
	uint8_t how = input8(in);
	if (how & 1)
		input_copy(in, &header, sizeof(header));
	if (how & 2)
		header.memory = input64(in);
	if (how & 4)
		header.disk_size = input32(in);
	header.guest[63] = 0;
	MUST(!ft_snapshot_begin(&w, fd, &header, seal, &err));
	put_chunks(in, &w, state, length, model);
	struct ft_snapshot_entry as_put[CHUNKS];
	if (w.count)
		memcpy(as_put, w.entries, w.count * sizeof(*w.entries));
	for (uint8_t n = how >> 4 & 3; n && w.count; n--) {
		uint64_t entry = input8(in) % w.count, byte = input8(in) % sizeof(*w.entries);
		((uint8_t *)&w.entries[entry])[byte] ^= input8(in);
	}
	/* A chunk is bound to its place, and each byte of the index says something. */
	for (uint64_t i = 0; i < w.count; i++)
		model->lies |= memcmp(&w.entries[i], &as_put[i], sizeof(as_put[i])) != 0;
	MUST(!ft_snapshot_end(&w, NULL, &err));
	ft_snapshot_writer_free(&w);
	return header;
}

static void same_as_model(struct ft_machine *m, const struct model *model)
{
	uint8_t bytes[FT_PAGE_SIZE], want[FT_PAGE_SIZE];
	for (uint64_t page = 0; page < FT_RAM_MIN / FT_PAGE_SIZE; page++) {
		if (!model->page[page] && page % 61)
			continue;
		memset(want, 0, PAGE_ZEROS);
		memset(want + PAGE_ZEROS, model->page[page], sizeof(want) - PAGE_ZEROS);
		MUST(ft_memory_read(&m->ram, ft_gpa_make(page * FT_PAGE_SIZE), bytes, sizeof(bytes)));
		MUST(!memcmp(bytes, want, sizeof(want)));
	}
	for (uint64_t block = 0; block < BLOCKS; block++) {
		if (!model->written[block])
			continue;
		memset(want, model->block[block], sizeof(want));
		MUST(!ft_disk_read(&m->devices->blk.disk, block * FT_DISK_BLOCK, bytes, sizeof(bytes)));
		MUST(!memcmp(bytes, want, sizeof(want)));
	}
}

/* Saved and restored once more it is the same machine. */
static void again(struct ft_machine *m, int disk)
{
	static const struct ft_snapshot_about about = {.guest = "web", .created_ns = 1};
	struct ft_snapshot_told told;
	struct ft_snapshot_load load;
	struct ft_error err = {0};
	struct pc pc;
	int fd = new_file();
	MUST(!ft_snapshot_save(m, &about, fd, NULL, &told, &err));
	pc_open(&pc, disk);
	MUST(!ft_snapshot_restore(&load, pc.m, fd, NULL, &err));
	while (ft_snapshot_fill(&load))
		;
	ft_snapshot_loaded(&load);
	MUST(ft_machine_hash(pc.m) == ft_machine_hash(m));
	pc_close(&pc);
	close(fd);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	MUST(sodium_init() >= 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int disk = -1;
	static struct model model;
	struct input in = {data, size};
	struct ft_snapshot_seal seal;
	struct ft_snapshot_load load;
	struct ft_snapshot file;
	struct ft_error err = {0}, why = {0}, third = {0};
	struct pc pc;
	if (disk < 0)
		disk = pc_disk_image(DISK);
	memset(&model, 0, sizeof(model));
	uint8_t how = input8(&in);
	const struct ft_snapshot_seal *with = how & 1 ? &seal : NULL;
	size_t changes_length = how & 2 ? in.left / 2 : 0;
	struct input changes = {in.at + in.left - changes_length, changes_length};
	in.left -= changes_length;
	ft_snapshot_seal(&seal, key);
	int fd = new_file();
	struct ft_snapshot_header header = make(&in, fd, with, &model);
	if (how & 2)
		change_bytes(&changes, fd, (uint64_t)lseek(fd, 0, SEEK_END));

	int opened = ft_snapshot_open(&file, fd, with, &err), verified = opened;
	MUST(!opened == !*err.text);
	/* Who reads header and index alone sees no less, but for what an authentic index says. */
	if (ft_snapshot_authenticate(fd, with, &third))
		MUST(opened);
	else
		MUST(!opened || strstr(err.text, "entry.") || strstr(err.text, "footer.index"));
	if (!opened) {
		verified = ft_snapshot_verify(&file, &err);
		MUST(!verified == !*err.text);
		ft_snapshot_close(&file);
	}
	MUST(!(model.lies && !verified));
	pc_open(&pc, disk);
	int restored = ft_snapshot_restore(&load, pc.m, fd, with, &why);
	MUST(!restored == !*why.text);
	MUST(!(opened && !restored));
	/* Whole, and of such a machine: what is refused then is the state. */
	if (restored && !verified && header.memory == FT_RAM_MIN && header.disk_size == DISK)
		MUST(strstr(why.text, "machine state") || strstr(why.text, "disk_sample"));
	if (!restored) {
		while (ft_snapshot_fill(&load))
			;
		ft_snapshot_loaded(&load);
		/* A chunk of RAM that is none shows when it is fetched. */
		MUST(!verified == !pc.m->error.code);
		if (!verified && !(how & 2) && !model.unknown)
			same_as_model(pc.m, &model);
		if (!verified && (how & ~1u) == 0x50) /* takes long: it reads all of RAM */
			again(pc.m, disk);
	}
	pc_close(&pc);
	close(fd);
	return 0;
}
