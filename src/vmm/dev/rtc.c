#include "vmm/dev/rtc.h"

#define SECOND  1000000000ull
#define DAY_S   86400
#define RTC_IRQ 8

enum {
	SECONDS,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	WEEKDAY,
	DAY,
	MONTH,
	YEAR,
	A,
	B,
	C,
	D
};
enum { CENTURY = 0x32 };
enum {
	A_UPDATING = 0x80,
	B_SET = 0x80,
	B_PERIODIC = 0x40,
	B_ALARM = 0x20,
	B_UPDATE = 0x10,
	B_BINARY = 4,
	B_24H = 2
};
enum { C_INTERRUPT = 0x80 };

/* The chip says 244 us ahead that it will update. */
#define UPDATE_AHEAD_NS 244000u

static uint64_t now_ns(const struct ft_rtc *rtc)
{
	return rtc->m->clock.epoch_ns + ft_machine_vtime(rtc->m);
}

static int64_t guest_seconds(const struct ft_rtc *rtc)
{
	return (int64_t)(now_ns(rtc) / SECOND) + rtc->s.offset_s;
}

static uint8_t encode(const struct ft_rtc *rtc, int value)
{
	return (uint8_t)((rtc->s.cmos[B] & B_BINARY) ? value : value / 10 << 4 | value % 10);
}

static int decode(const struct ft_rtc *rtc, uint8_t value)
{
	return (rtc->s.cmos[B] & B_BINARY) ? value : (value >> 4) * 10 + (value & 15);
}

static uint8_t encode_hour(const struct ft_rtc *rtc, int hour)
{
	if (rtc->s.cmos[B] & B_24H)
		return encode(rtc, hour);
	return (uint8_t)(encode(rtc, (hour + 11) % 12 + 1) | (hour >= 12 ? 0x80 : 0));
}

static int decode_hour(const struct ft_rtc *rtc, uint8_t value)
{
	if (rtc->s.cmos[B] & B_24H)
		return decode(rtc, value);
	return decode(rtc, value & 0x7f) % 12 + (value & 0x80 ? 12 : 0);
}

/* ---- The calendar: proleptic Gregorian, UTC. Not libc's, which may read the host's time zone files at its first use: a
 * clone may open nothing, and the guest's time is no matter of the host's settings. Days count from 1970-01-01. ---- */

struct civil {
	int64_t year, month, day; /* month and day from 1 */
};

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

/* Days from 0000-03-01 to the first of March of the year: leap days come last in years that begin in March. */
static int64_t days_before_march(int64_t year)
{
	return year * 365 + floor_div(year, 4) - floor_div(year, 100) + floor_div(year, 400);
}

/* From 0000-03-01 to 1970-01-01. */
#define DAYS_TO_EPOCH 719468

/* Months and days beyond their range carry over, as a guest may write them. */
static int64_t days_from_civil(struct civil date)
{
	int64_t month = date.month - 3; /* from March */
	int64_t year = date.year + floor_div(month, 12);
	month -= floor_div(month, 12) * 12;
	/* From March on months have 31 30 31 30 31, 31 30 31 30 31, 31 28 days: 153 in five. */
	return days_before_march(year) + (153 * month + 2) / 5 + date.day - 1 - DAYS_TO_EPOCH;
}

static struct civil civil_from_days(int64_t days)
{
	days += DAYS_TO_EPOCH;
	/* 146097 days in 400 years; leap days put it off by less than a year. */
	int64_t year = floor_div(days * 400, 146097) + 1;
	while (days_before_march(year) > days)
		year--;
	int64_t within = days - days_before_march(year);
	int64_t month = (5 * within + 2) / 153;
	return (struct civil){.year = year + (month >= 10),
			      .month = (month + 2) % 12 + 1,
			      .day = within - (153 * month + 2) / 5 + 1};
}

/* ---- Registers ---- */

/* Fills the time registers from the clock. While SET is on they hold what the guest writes. */
static void refresh(struct ft_rtc *rtc)
{
	if (rtc->s.cmos[B] & B_SET)
		return;
	int64_t at = guest_seconds(rtc), days = floor_div(at, DAY_S);
	int second = (int)(at - days * DAY_S);
	struct civil date = civil_from_days(days);
	int years = (int)(date.year - floor_div(date.year, 10000) * 10000);
	uint8_t *cmos = rtc->s.cmos;
	cmos[SECONDS] = encode(rtc, second % 60);
	cmos[MINUTES] = encode(rtc, second / 60 % 60);
	cmos[HOURS] = encode_hour(rtc, second / 3600);
	cmos[WEEKDAY] = encode(rtc, (int)(days + 4 - floor_div(days + 4, 7) * 7) + 1); /* 1970-01-01: Thursday */
	cmos[DAY] = encode(rtc, (int)date.day);
	cmos[MONTH] = encode(rtc, (int)date.month);
	cmos[YEAR] = encode(rtc, years % 100);
	cmos[CENTURY] = encode(rtc, years / 100);
}

/* The guest has written the time registers: keep it as an offset. */
static void adopt(struct ft_rtc *rtc)
{
	const uint8_t *cmos = rtc->s.cmos;
	struct civil date = {.year = decode(rtc, cmos[CENTURY]) * 100 + decode(rtc, cmos[YEAR]),
			     .month = decode(rtc, cmos[MONTH]),
			     .day = decode(rtc, cmos[DAY])};
	int64_t seconds = (int64_t)decode_hour(rtc, cmos[HOURS]) * 3600 +
			  decode(rtc, cmos[MINUTES]) * 60 + decode(rtc, cmos[SECONDS]);
	rtc->s.offset_s = days_from_civil(date) * DAY_S + seconds - (int64_t)(now_ns(rtc) / SECOND);
}

static void raise_flags(struct ft_rtc *rtc, uint8_t flags)
{
	rtc->s.cmos[C] |= flags;
	if (rtc->s.cmos[C] & rtc->s.cmos[B] & 0x70) {
		rtc->s.cmos[C] |= C_INTERRUPT;
		ft_irq_set(rtc->m, RTC_IRQ, true);
	}
}

static void schedule_second(struct ft_rtc *rtc)
{
	uint8_t b = rtc->s.cmos[B];
	if (!(b & (B_UPDATE | B_ALARM)) || (b & B_SET)) {
		ft_timer_disarm(rtc->m, &rtc->second);
		return;
	}
	ft_timer_arm(rtc->m, &rtc->second, ft_machine_vtime(rtc->m) + SECOND - now_ns(rtc) % SECOND);
}

static bool alarm_matches(struct ft_rtc *rtc)
{
	static const uint8_t pairs[3][2] = {
	    {SECONDS, SECONDS_ALARM}, {MINUTES, MINUTES_ALARM}, {HOURS, HOURS_ALARM}};
	refresh(rtc);
	for (unsigned i = 0; i < 3; i++) {
		uint8_t want = rtc->s.cmos[pairs[i][1]];
		if (want < 0xc0 && want != rtc->s.cmos[pairs[i][0]]) /* 0xc0 and above: any */
			return false;
	}
	return true;
}

static void second_passed(void *context)
{
	struct ft_rtc *rtc = context;
	raise_flags(rtc, (uint8_t)(B_UPDATE | (alarm_matches(rtc) ? B_ALARM : 0)));
	schedule_second(rtc);
}

static uint64_t periodic_ns(const struct ft_rtc *rtc)
{
	unsigned rate = rtc->s.cmos[A] & 15;
	if (!rate)
		return 0;
	if (rate < 3)
		rate += 7; /* 1 and 2 are 256 and 128 Hz */
	return (SECOND << (rate - 1)) / 32768;
}

static void schedule_periodic(struct ft_rtc *rtc)
{
	uint64_t ns = periodic_ns(rtc);
	if (!(rtc->s.cmos[B] & B_PERIODIC) || !ns)
		ft_timer_disarm(rtc->m, &rtc->periodic);
	else
		ft_timer_arm(rtc->m, &rtc->periodic, (ft_machine_vtime(rtc->m) / ns + 1) * ns);
}

static void period_passed(void *context)
{
	struct ft_rtc *rtc = context;
	raise_flags(rtc, B_PERIODIC);
	schedule_periodic(rtc);
}

static uint8_t read_register(struct ft_rtc *rtc)
{
	uint8_t index = rtc->s.index, value;
	switch (index) {
	case A:
		value = rtc->s.cmos[A];
		if (!(rtc->s.cmos[B] & B_SET) && now_ns(rtc) % SECOND >= SECOND - UPDATE_AHEAD_NS)
			value |= A_UPDATING;
		return value;
	case C:
		value = rtc->s.cmos[C];
		rtc->s.cmos[C] = 0;
		ft_irq_set(rtc->m, RTC_IRQ, false);
		return value;
	case D:
		return 0x80; /* the battery is good */
	default:
		refresh(rtc);
		return rtc->s.cmos[index];
	}
}

static void write_register(struct ft_rtc *rtc, uint8_t value)
{
	uint8_t index = rtc->s.index, old = rtc->s.cmos[index];
	switch (index) {
	case A:
		rtc->s.cmos[A] = value & 0x7f;
		schedule_periodic(rtc);
		break;
	case B:
		refresh(rtc);
		rtc->s.cmos[B] = value;
		if ((old & B_SET) && !(value & B_SET))
			adopt(rtc);
		schedule_second(rtc);
		schedule_periodic(rtc);
		break;
	case C:
	case D:
		break;
	default:
		refresh(rtc);
		rtc->s.cmos[index] = value;
		if ((index <= YEAR || index == CENTURY) && index != SECONDS_ALARM && index != MINUTES_ALARM &&
		    index != HOURS_ALARM && !(rtc->s.cmos[B] & B_SET))
			adopt(rtc);
	}
}

static uint64_t rtc_read(void *device, uint64_t offset, unsigned size)
{
	return offset ? read_register(device) : 0xff;
}

static void rtc_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct ft_rtc *rtc = device;
	if (offset)
		write_register(rtc, (uint8_t)value);
	else
		rtc->s.index = value & 0x7f;
}

int ft_rtc_create(struct ft_rtc *rtc, struct ft_machine *m, struct ft_error *err)
{
	rtc->m = m;
	rtc->s.cmos[A] = 0x26;
	rtc->s.cmos[B] = B_24H;
	ft_timer_register(m, &rtc->second, second_passed, rtc);
	ft_timer_register(m, &rtc->periodic, period_passed, rtc);
	rtc->region = (struct ft_region){.space = FT_SPACE_IO,
					 .base = 0x70,
					 .length = 2,
					 .read = rtc_read,
					 .write = rtc_write,
					 .device = rtc,
					 .name = "real-time clock",
					 .enabled = true};
	return ft_bus_add(m, &rtc->region, err);
}
