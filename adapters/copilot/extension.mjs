// ecorelay's extension for GitHub Copilot CLI: what other assistants write to this session begins a turn in it.
// `ecorelay install copilot` writes this file, with the constants below filled in; what is changed here is lost.
const VERSION = "";
const DATA_DIRECTORY = "";
const DATA_DIRECTORY_IS_FIXED = false;
const EXPERIMENTAL_IS_OURS = false;

// EXPERIMENTAL_IS_OURS is for the uninstaller: whether "experimental" in settings.json was put there by us.
void EXPERIMENTAL_IS_OURS;

// Copilot starts this as a process of its own beside each session, and ecorelay's MCP server as another. They meet
// over a Unix socket, to which a file named after the session leads, and tell each other JSON-RPC notifications, one
// a line: see docs/copilot.md. Standard output belongs to Copilot's own JSON-RPC, so nothing is ever printed here.

import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as net from "node:net";
import * as path from "node:path";
import { joinSession } from "@github/copilot-sdk/extension";

const LINE_MAX = 4 * 1024 * 1024; // bytes of one line
const KEPT = 2000; // hand-overs remembered
const TOLD = 200; // of these, how many the other side is told of when it comes
const RECORD_MAX = 15000; // bytes of them kept with the session; Copilot takes 16 KiB
const RECORD = "ecorelay/handed_over"; // its name among the session's client metadata
const STRANGERS_MAX = 100; // messages of others, remembered until we know that they are not ours
const RETRY_MIN_MS = 200;
const RETRY_MAX_MS = 5000;
const STEADY_MS = 5000; // a link that lasted so long is tried again without a long pause
const INTRODUCE_MS = 5000; // what is being handed over when a link comes may take so long; an adapter waits for 8 s

process.on("uncaughtException", () => process.exit(1));
process.on("unhandledRejection", () => process.exit(1));

/** What the session was given, and what came of it. */
class Given {
    /** Hand-over → {mark, messageId, placed, late, doubtful, summed, lost, seen}, the latest last. */
    #all = new Map();
    /** Messages of the conversation that may be ours: their message's id → {late, seen}. */
    #strangers = new Map();
    /** A model request runs: it was begun before whatever comes now. */
    #asking = false;
    /** This Copilot says how requests end. */
    #tellsEnds = false;
    /** A turn is running. */
    #running = false;
    /** Whose requests belong to the running turn; empty: not told. */
    #interaction = "";

    /**
     * @param session the SDK's.
     * @param onSeen told each hand-over that the model was given.
     */
    constructor(session, onSeen) {
        this.session = session;
        this.onSeen = onSeen;
    }

    get ids() {
        return [...this.#all.keys()];
    }

    get seen() {
        return [...this.#all].filter(([, each]) => each.seen).map(([id]) => id);
    }

    get(id) {
        return this.#all.get(id);
    }

    begin(id, text) {
        const each = { mark: mark(text), messageId: "", placed: false, late: false, doubtful: false, seen: false };
        this.#all.set(id, each);
        for (const oldest of this.#all.keys()) {
            if (this.#all.size <= KEPT) break;
            this.#all.delete(oldest);
        }
    }

    forget(id) {
        this.#all.delete(id);
    }

    /** Other hand-overs that hold a message which this one holds: an id names them all. */
    sharing(id) {
        const ours = new Set(messagesOf(id));
        return this.ids.filter((other) => other !== id && messagesOf(other).some((each) => ours.has(each)));
    }

    /** Copilot took it, as this message. */
    taken(id, messageId) {
        const each = this.#all.get(id);
        const met = this.#strangers.get(messageId);
        if (!each) return;
        each.messageId = messageId;
        if (met && !each.placed) {
            each.placed = true;
            each.late = met.late;
            if (met.seen) this.#prove(id, each);
        }
    }

    /** Learn from an event of the session's own conversation. */
    event(event) {
        const data = event.data ?? {};
        switch (event.type) {
            case "user.message":
                this.#running = true;
                this.#said(data);
                break;
            case "assistant.turn_start":
                this.#running = true;
                this.#interaction = data.interactionId ?? "";
                break;
            case "assistant.idle":
            case "session.idle":
                this.#running = false;
                for (const each of this.#all.values()) each.lost ||= each.summed && !each.seen;
                break;
            case "session.compaction_complete":
                // A summary stands for what was said. The running turn still has its own messages; what it ends
                // without, for its size perhaps, no request will hold any more.
                for (const each of this.#all.values()) {
                    each.summed ||= each.placed && !each.seen;
                    each.lost ||= each.summed && !this.#running;
                }
                break;
            case "model.call_start":
                this.#asking = true;
                break;
            case "model.call_finished":
                this.#asking = false;
                this.#tellsEnds = true;
                // What Copilot asks a model on its own account, for a title perhaps, proves nothing.
                if (!data.interactionId || !this.#interaction || data.interactionId === this.#interaction) {
                    this.#answered(data.outcome === "success");
                }
                break;
            case "assistant.message":
                if (!this.#tellsEnds) this.#answered(true);
                break;
            case "abort":
            case "session.snapshot_rewind":
            case "session.context_cleared":
                // The person may take back what was said; whether it still stands there is looked at then.
                for (const each of this.#all.values()) each.doubtful ||= each.placed && !each.seen;
                this.#strangers.clear();
        }
    }

    #said(data) {
        const found = typeof data.content === "string" ? mark(data.content) : "";
        for (const each of this.#all.values()) {
            const ours = each.messageId ? each.messageId === data.messageId : each.mark === found;
            if (ours && !each.placed) {
                each.placed = true;
                each.late = this.#asking;
                return;
            }
        }
        if (typeof data.messageId === "string") {
            this.#strangers.set(data.messageId, { late: this.#asking, seen: false });
            if (this.#strangers.size > STRANGERS_MAX) this.#strangers.delete(this.#strangers.keys().next().value);
        }
    }

    /** A model request has ended. What was said while it ran is in the next. */
    #answered(well) {
        for (const each of this.#strangers.values()) {
            each.seen ||= well && !each.late;
            each.late = false;
        }
        const doubtful = [];
        for (const [id, each] of this.#all) {
            if (!each.placed || each.seen || each.lost) continue;
            if (well && !each.late && each.doubtful) doubtful.push([id, each]);
            else if (well && !each.late) this.#prove(id, each);
            each.late = false;
        }
        if (doubtful.length) this.#look(doubtful).catch(() => {}); // it is looked at again after the next request
    }

    async #look(doubtful) {
        const marks = new Set((await conversation(this.session)).map((said) => said.mark));
        for (const [id, each] of doubtful) {
            if (marks.has(each.mark)) this.#prove(id, each);
        }
    }

    #prove(id, each) {
        if (each.seen) return;
        each.seen = true;
        this.onSeen(id);
    }

    // --- kept with the session, for a process after this one ------------------------------------------------

    /** Write down what was and is being handed over. */
    async keep() {
        const rows = [];
        let size = 2;
        for (const [id, each] of [...this.#all].reverse()) {
            const row = JSON.stringify([id, each.mark, each.seen ? 1 : 0]);
            size += Buffer.byteLength(row) + 1;
            if (size > RECORD_MAX) break;
            rows.unshift(row);
        }
        await this.session.rpc.metadata.updateClientMetadata({ set: { [RECORD]: `[${rows.join(",")}]` } });
    }

    /** Learn what a process before us handed over, and what came of it. */
    async recall() {
        const kept = (await this.session.rpc.metadata.getClientMetadata())?.[RECORD];
        const rows = JSON.parse(typeof kept === "string" ? kept : "[]").filter(
            (row) => Array.isArray(row) && typeof row[0] === "string" && typeof row[1] === "string",
        );
        if (!rows.length) return;
        // In this order: what leaves the queue meanwhile is in the conversation.
        const queue = await this.session.rpc.queue.pendingItems();
        const said = new Map((await conversation(this.session)).map((each) => [each.mark, each]));
        const waiting = new Set([...queue.items.map((item) => item.displayText), ...queue.steeringMessages].map(mark));
        const before = new Map();
        for (const [id, found, seen] of rows) {
            const there = said.get(found);
            if (!seen && !there && !waiting.has(found)) continue; // it was never taken, or taken back
            const each = { mark: found, messageId: there?.messageId ?? "", late: false, doubtful: false };
            before.set(id, { ...each, placed: Boolean(seen || there), seen: Boolean(seen || there?.answered) });
        }
        for (const [id, each] of this.#all) before.set(id, each);
        this.#all = before;
    }
}

function messagesOf(id) {
    return id.replace(/^ecorelay:/, "").split(",");
}

/** Names a text without holding it. */
function mark(text) {
    return createHash("sha256").update(text).digest("hex").slice(0, 24);
}

/** What was said to the model, and whether it has spoken since. */
async function conversation(session) {
    const said = [];
    for (const event of await session.getEvents()) {
        if (event.agentId) continue;
        if (event.type === "user.message" && typeof event.data?.content === "string") {
            said.push({ mark: mark(event.data.content), messageId: event.data.messageId ?? "", answered: false });
        } else if (event.type === "assistant.message") {
            for (const each of said) each.answered = true;
        }
    }
    return said;
}

/** Speaks for this session to ecorelay's MCP server. */
class Companion {
    #socket = null;
    #pause = RETRY_MIN_MS;
    #busy = false;
    #work = Promise.resolve();
    #handing = "";
    #welcome = "";

    constructor(session, id) {
        this.session = session;
        this.id = id;
        this.given = new Given(session, (id) => this.tell("seen", { id }));
    }

    async run() {
        this.session.on((event) => {
            if (event.agentId) return; // a sub-agent's
            this.given.event(event);
            if (event.type === "user.message" || event.type === "assistant.turn_start") this.#isBusy(true);
            if (event.type === "assistant.idle" || event.type === "session.idle") this.#isBusy(false);
        });
        await Promise.allSettled([
            this.given.recall(),
            this.session.rpc.metadata.isProcessing().then(({ processing }) => (this.#busy ||= processing === true)),
        ]);
        this.#connect();
    }

    #isBusy(busy) {
        if (this.#busy === busy) return;
        this.#busy = busy;
        this.tell("status", { busy });
    }

    // --- the link -------------------------------------------------------------------------------------------

    tell(what, params) {
        const said = { jsonrpc: "2.0", method: `ecorelay/${what}`, params: { session: this.id, ...params } };
        this.#socket?.write(`${JSON.stringify(said)}\n`);
    }

    #connect() {
        const where = findSocket(this.id);
        if (where === null) {
            this.#again();
            return;
        }
        const socket = net.connect(where);
        let rest = [];
        let size = 0;
        let began = Infinity;
        socket.on("connect", () => {
            began = performance.now();
            this.#introduce(socket);
        });
        socket.on("data", (chunk) => {
            let from = 0;
            for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
                this.#hear(Buffer.concat([...rest, chunk.subarray(from, end)]).toString());
                rest = [];
                size = 0;
                from = end + 1;
            }
            rest.push(chunk.subarray(from));
            size += chunk.length - from;
            if (size > LINE_MAX) socket.destroy();
        });
        socket.on("error", () => {});
        socket.on("close", () => {
            if (this.#socket === socket) this.#socket = null;
            if (performance.now() - began >= STEADY_MS) this.#pause = RETRY_MIN_MS;
            this.#again();
        });
    }

    /**
     * Say who is here, after what is being handed over: whoever hears this must know of it. What takes longer
     * may still fail, so it is not claimed; whoever gives it again then hears what came of it.
     */
    async #introduce(socket) {
        await within(INTRODUCE_MS, this.#work);
        if (socket.destroyed) return;
        this.#socket = socket;
        this.tell("session", {
            directory: process.cwd(),
            version: VERSION,
            handed_over: this.given.ids.filter((id) => id !== this.#handing).slice(-TOLD),
            seen: this.given.seen.slice(-TOLD),
        });
        this.tell("status", { busy: this.#busy });
    }

    #again() {
        setTimeout(() => this.#connect(), this.#pause * (0.5 + Math.random()));
        this.#pause = Math.min(this.#pause * 2, RETRY_MAX_MS);
    }

    #hear(line) {
        let said;
        try {
            said = JSON.parse(line);
        } catch {
            return;
        }
        const params = said?.params;
        if (params === null || typeof params !== "object" || params.session !== this.id) return;
        if (said.method === "ecorelay/welcome" && typeof params.text === "string") this.#welcome = params.text;
        if (typeof params.id !== "string") return;
        if (said.method === "ecorelay/canary") {
            this.#showLife(params.id);
        } else if (said.method === "ecorelay/hand_over" && typeof params.text === "string") {
            // One after the other, or they would not stay in order.
            const until = Number.isFinite(params.until) ? params.until : Infinity;
            this.#work = this.#work.then(() => this.#handOver(params.id, params.text, params.urgent === true, until));
        }
    }

    // --- what is asked of us --------------------------------------------------------------------------------

    /** Nothing is handed over after `until`: then its mail was left to relay_inbox. */
    async #handOver(id, text, urgent, until) {
        if (this.given.get(id)) {
            this.#tellOf(id);
            return;
        }
        const there = this.given.sharing(id);
        if (there.length) {
            for (const other of there) this.#tellOf(other);
            this.tell("refused", { id, why: "some of it was handed over before" });
            return;
        }
        const options = { prompt: text, mode: urgent ? "immediate" : "enqueue" };
        if (this.#welcome && !this.given.ids.length) {
            // Copilot keeps from its model what MCP servers say of themselves; so it is said once, with the
            // first message, and not shown to the person.
            options.displayPrompt = text;
            options.prompt = `${this.#welcome}\n\n${text}`;
        }
        this.given.begin(id, text);
        this.#handing = id;
        try {
            inTime(until);
            // First, so that a process after us knows; what cannot be kept is handed over all the same.
            await this.given.keep().catch(() => {});
            inTime(until);
            this.given.taken(id, await this.session.send(options));
        } catch (error) {
            this.given.forget(id);
            this.tell("refused", { id, why: String(error?.message ?? error).slice(0, 200) });
            return;
        } finally {
            this.#handing = "";
        }
        this.#tellOf(id);
    }

    #tellOf(id) {
        this.tell("handed_over", { id });
        if (this.given.get(id)?.seen) this.tell("seen", { id });
    }

    async #showLife(id) {
        try {
            const { items } = await this.session.rpc.queue.pendingItems();
            const state = this.#busy ? "busy" : "idle";
            const says = `the session answers, it is ${state}, ${items.length} queued`;
            this.tell("canary_answer", { id, ok: true, says });
        } catch (error) {
            this.tell("canary_answer", { id, ok: false, says: String(error?.message ?? error).slice(0, 200) });
        }
    }
}

function inTime(until) {
    if (Date.now() > until) throw new Error("it came too late");
}

/** Wait for a promise, but no longer than this. */
async function within(ms, promise) {
    let timer;
    await Promise.race([promise, new Promise((resolve) => (timer = setTimeout(resolve, ms)))]);
    clearTimeout(timer);
}

/** The socket of this session's MCP server; null: there is none, or it is not this user's. */
function findSocket(session) {
    const home = (!DATA_DIRECTORY_IS_FIXED && process.env.ECORELAY_HOME) || DATA_DIRECTORY;
    const name = createHash("sha256").update(session).digest("hex").slice(0, 32);
    try {
        const file = path.join(home, "links", `${name}.json`);
        const where = JSON.parse(fs.readFileSync(file, "utf8")).path;
        return isOurs(file) && isOurs(where) ? where : null;
    } catch {
        return null;
    }
}

/** In the temporary directory another user could listen, and what it says would go to our model. */
function isOurs(file) {
    return typeof process.getuid !== "function" || fs.lstatSync(file).uid === process.getuid();
}

try {
    const session = await joinSession({});
    await new Companion(session, session.sessionId || process.env.SESSION_ID).run();
} catch {
    process.exit(1); // Copilot shows that it failed
}
