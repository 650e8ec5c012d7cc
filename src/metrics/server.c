#include "metrics/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <microhttpd.h>

#include "metrics/exposition.h"
#include "metrics/health.h"

/* A connection from accept to close. */
struct client {
	int fd; /* libmicrohttpd's; -1: free */
	uint64_t until;
	bool cut;
};

/* A request that waits, or has its answer. */
struct request {
	struct request *next; /* of those that wait */
	struct MHD_Connection *connection;
	bool waits;
	char *body;
	size_t length;
	unsigned status;
	const char *type;
	void (*answer)(struct request *request, const json_t *state);
};

struct ft_server {
	struct MHD_Daemon *daemon;
	void (*ask)(void *context);
	void *context;
	struct client clients[FT_SERVER_CONNECTIONS];
	struct request *waiting;
	bool asked;
	uint64_t now, patience;
};

/* ---- What is answered --------------------------------------------------------------------------------------------- */

static void answer_metrics(struct request *request, const json_t *state)
{
	FILE *file = open_memstream(&request->body, &request->length);
	if (!file)
		return;
	ft_exposition_print(file, state);
	if (fclose(file)) {
		free(request->body);
		request->body = NULL;
	}
	/* Half of the truth as 200 would look like counters that went away. */
	request->status = state ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
	request->type = FT_EXPOSITION_TYPE;
}

static void answer_health(struct request *request, const json_t *state,
			  bool (*check)(const json_t *state, json_t *problems))
{
	bool ok;
	json_t *json = ft_health_json(check, state, &ok);
	request->body = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	request->length = request->body ? strlen(request->body) : 0;
	request->status = ok ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
	request->type = "application/json";
}

static void answer_live(struct request *request, const json_t *state)
{
	answer_health(request, state, ft_health_live);
}

static void answer_ready(struct request *request, const json_t *state)
{
	answer_health(request, state, ft_health_ready);
}

static const struct {
	const char *path;
	void (*answer)(struct request *request, const json_t *state);
} pages[] = {{"/metrics", answer_metrics}, {"/healthz", answer_live}, {"/readyz", answer_ready}};

/* ---- Requests ------------------------------------------------------------------------------------------------------ */

/* body is taken over (malloc). */
static enum MHD_Result respond(struct MHD_Connection *connection, unsigned status, const char *type, char *body,
			       size_t length)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(length, body, MHD_RESPMEM_MUST_FREE);
	if (!response) {
		free(body);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	enum MHD_Result result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result refuse(struct MHD_Connection *connection, unsigned status, const char *text)
{
	char *body = strdup(text);
	return body ? respond(connection, status, "text/plain; charset=utf-8", body, strlen(body)) : MHD_NO;
}

static enum MHD_Result begin(struct ft_server *server, struct MHD_Connection *connection, const char *url,
			     const char *method, void **state)
{
	if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
		return refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
	size_t i = 0;
	while (i < sizeof(pages) / sizeof(*pages) && strcmp(pages[i].path, url))
		i++;
	if (i == sizeof(pages) / sizeof(*pages))
		return refuse(connection, MHD_HTTP_NOT_FOUND, "there are /metrics, /healthz and /readyz\n");
	struct request *request = calloc(1, sizeof(*request));
	if (!request)
		return MHD_NO;
	request->connection = connection;
	request->answer = pages[i].answer;
	*state = request;
	return MHD_YES;
}

static enum MHD_Result handle(void *context, struct MHD_Connection *connection, const char *url, const char *method,
			      const char *version, const char *upload, size_t *upload_size, void **state)
{
	struct ft_server *server = context;
	struct request *request = *state;
	if (!request)
		return begin(server, connection, url, method, state);
	if (*upload_size) { /* the body of a GET means nothing (RFC 9110 section 9.3.1) */
		*upload_size = 0;
		return MHD_YES;
	}
	if (request->type) {
		char *body = request->body;
		request->body = NULL;
		if (!body)
			return refuse(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "no memory\n");
		return respond(connection, request->status, request->type, body, request->length);
	}
	if (!request->waits) {
		request->waits = true;
		request->next = server->waiting;
		server->waiting = request;
		MHD_suspend_connection(connection);
	}
	return MHD_YES;
}

static void done(void *context, struct MHD_Connection *connection, void **state,
		 enum MHD_RequestTerminationCode why)
{
	struct ft_server *server = context;
	struct request *request = *state;
	if (!request)
		return;
	for (struct request **at = &server->waiting; *at; at = &(*at)->next)
		if (*at == request) {
			*at = request->next;
			break;
		}
	free(request->body);
	free(request);
	*state = NULL;
}

void ft_server_answer(struct ft_server *server, const json_t *state)
{
	server->asked = false;
	while (server->waiting) {
		struct request *request = server->waiting;
		server->waiting = request->next;
		request->next = NULL;
		request->waits = false;
		request->type = ""; /* answered, whatever comes of it */
		request->answer(request, state);
		MHD_resume_connection(request->connection);
	}
}

/* ---- Connections --------------------------------------------------------------------------------------------------- */

static void connection_changed(void *context, struct MHD_Connection *connection, void **state,
			       enum MHD_ConnectionNotificationCode what)
{
	struct ft_server *server = context;
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
		struct client *client = *state;
		if (client)
			client->fd = -1;
		*state = NULL;
		return;
	}
	for (unsigned i = 0; i < FT_SERVER_CONNECTIONS && info; i++)
		if (server->clients[i].fd < 0) {
			server->clients[i] =
			    (struct client){.fd = info->connect_fd, .until = server->now + FT_SERVER_TIME};
			*state = &server->clients[i];
			return;
		}
}

/* libmicrohttpd's own time-out begins anew with each byte. */
static void cut_slow(struct ft_server *server)
{
	for (unsigned i = 0; i < FT_SERVER_CONNECTIONS; i++) {
		struct client *client = &server->clients[i];
		if (client->fd < 0 || client->cut || client->until > server->now)
			continue;
		shutdown(client->fd, SHUT_RDWR);
		client->cut = true;
	}
}

int ft_server_open(struct ft_server **server, int listener, void (*ask)(void *context), void *context,
		   struct ft_error *err)
{
	struct ft_server *made = calloc(1, sizeof(*made));
	if (!made) {
		close(listener);
		return ft_error_set(err, -ENOMEM, "no memory for the HTTP server");
	}
	made->ask = ask;
	made->context = context;
	for (unsigned i = 0; i < FT_SERVER_CONNECTIONS; i++)
		made->clients[i].fd = -1;
	fcntl(listener, F_SETFL, O_NONBLOCK);
	made->daemon = MHD_start_daemon(
	    MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle, made, MHD_OPTION_LISTEN_SOCKET, listener,
	    MHD_OPTION_CONNECTION_LIMIT, FT_SERVER_CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
	    (size_t)FT_SERVER_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(FT_SERVER_TIME / 1000000000u),
	    MHD_OPTION_NOTIFY_COMPLETED, done, made, MHD_OPTION_NOTIFY_CONNECTION, connection_changed, made,
	    MHD_OPTION_END);
	if (!made->daemon) {
		close(listener);
		free(made);
		return ft_error_set(err, -EIO, "libmicrohttpd cannot be started");
	}
	*server = made;
	return 0;
}

void ft_server_close(struct ft_server *server)
{
	if (!server)
		return;
	/* None may be suspended when the daemon stops. */
	ft_server_answer(server, NULL);
	MHD_stop_daemon(server->daemon);
	free(server);
}

void ft_server_watch(struct ft_server *server, struct ft_server_sets *sets)
{
	MHD_get_fdset(server->daemon, &sets->read, &sets->write, &sets->except, &sets->most);
}

void ft_server_serve(struct ft_server *server, const struct ft_server_sets *sets, uint64_t now)
{
	server->now = now;
	if (server->asked && server->patience <= now)
		ft_server_answer(server, NULL);
	cut_slow(server);
	MHD_run_from_select(server->daemon, &sets->read, &sets->write, &sets->except);
	if (server->waiting && !server->asked) {
		server->asked = true;
		server->patience = now + FT_SERVER_PATIENCE;
		server->ask(server->context);
	}
}

uint64_t ft_server_due(const struct ft_server *server)
{
	MHD_UNSIGNED_LONG_LONG ms;
	uint64_t due = server->asked ? server->patience : UINT64_MAX;
	for (unsigned i = 0; i < FT_SERVER_CONNECTIONS; i++)
		if (server->clients[i].fd >= 0 && !server->clients[i].cut && server->clients[i].until < due)
			due = server->clients[i].until;
	if (MHD_get_timeout(server->daemon, &ms) == MHD_YES && server->now + ms * 1000000u < due)
		due = server->now + ms * 1000000u;
	return due;
}
