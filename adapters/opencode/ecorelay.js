// ecorelay's plugin for OpenCode. Made by `ecorelay install opencode`, which makes it anew: do not edit it.
const WORDS = ["ecorelay", "mcp", "--carrier", "opencode"]
const VARIABLES = {}
const VERSION = "0"
const TOOLS = []

// It gives the model the relay_* tools, and puts mail before it. Both are done by one child for the whole
// process, `ecorelay mcp --carrier opencode`; all they say to each other is JSON-RPC in lines, over its stdin
// and stdout. Each session that has no parent is a peer of its own; a subagent acts for the one it works for.
// Nothing here may write to OpenCode's stdout or stderr, and no hook may throw.

import { spawn, execFile } from "node:child_process"
import { readFile } from "node:fs/promises"

const PAUSE_MIN_MS = 200
const PAUSE_MAX_MS = 15_000
const STEADY_MS = 5_000 // a child that lived so long is started again without a long pause
const START_MS = 30_000 // for the child to answer at all
const FAILURES = 3 // in a row, and who calls a tool is told at once
const EXIT_MS = 500 // after its end, for what it said last
const TRIES = 5 // how often a call waits for a child that then ends
const TAKEN_MS = 8_000 // for OpenCode to store what it was handed
const LOOK_MS = 1_000 // for OpenCode to show the conversation
const WELCOME_MS = 2_000 // the first request of a session waits so long for what its model should know
const KICK_MS = 3_000 // an idle session with mail that no request held is asked to go on after this
const ITEMS_MAX = 2_000 // hand-overs remembered in a session
const TOLD_MAX = 200 // of them told to a new child
const HISTORY = 100 // messages looked at in a session that was there before us
const RESULTS_MAX = 50 // results kept whole until OpenCode has cut them
const UNKNOWN = "This session is not known to ecorelay: it may just have been deleted."
const NOTHING_DONE =
  "Nothing was done. Ask your user to run `ecorelay doctor`; it is tried again by itself."
const KICK = "[ecorelay] The mail above came in while you were busy, and no request to you held it yet."

// --- the child -----------------------------------------------------------------------------------------

class Child {
  constructor(sessions) {
    this.sessions = sessions
    this.process = undefined
    this.ready = false
    this.why = "it is still starting"
    this.failures = 0 // in a row
    this.calls = new Map()
    this.number = 0
    this.wake()
    this.start()
  }

  start() {
    this.began = Date.now()
    let child
    try {
      child = spawn(WORDS[0], WORDS.slice(1), {
        stdio: ["pipe", "pipe", "ignore"],
        env: { ...process.env, ...VARIABLES },
        windowsHide: true,
      })
    } catch (error) {
      this.ended(undefined, reason(error))
      return
    }
    this.process = child
    child.on("error", (error) => this.ended(child, reason(error)))
    child.on("close", (code, signal) => this.ended(child, `it ended with ${signal ?? code}`))
    // What it started itself may keep its stdout open; then there is no "close".
    child.on("exit", (code, signal) => {
      if (this.process === child) this.ready = false
      later(EXIT_MS, () => this.ended(child, `it ended with ${signal ?? code}`))
    })
    child.stdin.on("error", () => {})
    child.stdout.on("error", () => {})
    read(child.stdout, (message) => this.process === child && this.heard(message))
    for (const each of [child, child.stdin, child.stdout]) each.unref?.() // OpenCode ends when it wants to
    this.patience = later(START_MS, () => child.kill("SIGKILL"))
    const params = {
      protocolVersion: "2025-11-25",
      capabilities: {},
      clientInfo: { name: "opencode", version: VERSION },
    }
    this.request("initialize", params).then(
      () => {
        if (this.process !== child) return
        clearTimeout(this.patience)
        this.say("notifications/initialized", {})
        this.ready = true
        for (const session of this.sessions.values()) session.introduce()
        this.wake()
      },
      () => {}, // it ended
    )
  }

  ended(child, why) {
    if (child !== this.process) return
    this.process = undefined
    this.ready = false
    this.why = why
    clearTimeout(this.patience)
    const calls = [...this.calls.values()]
    this.calls.clear()
    for (const call of calls) call.reject(new Error("the connection to ecorelay broke"))
    this.wake()
    const steady = Date.now() - this.began > STEADY_MS
    const pause = steady ? PAUSE_MIN_MS : Math.min(PAUSE_MIN_MS * 2 ** this.failures, PAUSE_MAX_MS)
    this.failures = steady ? 0 : this.failures + 1
    later(pause * (0.5 + Math.random()), () => this.start())
  }

  wake() {
    this.awake?.()
    this.news = new Promise((resolve) => (this.awake = resolve))
  }

  // Whether it is there; waits while it is likely to come.
  async isReady() {
    const end = Date.now() + START_MS
    while (!this.ready && this.failures < FAILURES && Date.now() < end)
      await within(end - Date.now(), this.news)
    return this.ready
  }

  write(message) {
    this.process?.stdin.write(JSON.stringify({ jsonrpc: "2.0", ...message }) + "\n")
  }

  say(method, params) {
    this.write({ method, params })
  }

  tell(what, params) {
    if (this.ready) this.say(`ecorelay/${what}`, params)
  }

  request(method, params, abort) {
    const id = ++this.number
    return new Promise((resolve, reject) => {
      // Nobody would ever answer: `ended` has rejected what was open then, and the next one does not hear of it.
      if (!this.process) throw new NotDone("ecorelay is not running; nothing was done")
      if (abort?.aborted) throw new NotDone("cancelled; nothing was done")
      const cancel = () => {
        if (!this.calls.delete(id)) return
        this.say("notifications/cancelled", { requestId: id })
        reject(new Error("cancelled"))
      }
      abort?.addEventListener("abort", cancel, { once: true })
      const end = (act) => (found) => {
        abort?.removeEventListener("abort", cancel)
        act(found)
      }
      this.calls.set(id, { resolve: end(resolve), reject: end(reject) })
      this.write({ id, method, params: params._meta ? withToken(params, id) : params })
    })
  }

  heard(message) {
    const call = message.method === undefined && this.calls.get(message.id)
    if (call) {
      this.calls.delete(message.id)
      if (message.error) call.reject(new Error(String(message.error.message)))
      else call.resolve(message.result)
    } else if (message.method?.startsWith("ecorelay/")) {
      const params = message.params ?? {}
      const session = this.sessions.get(params.session)
      if (session) session.told(message.method.slice("ecorelay/".length), params)
      else if (params.id !== undefined) this.tell("refused", { ...names(params), why: "no such session" })
    } else if (message.method !== undefined && message.id !== undefined) {
      this.write({ id: message.id, error: { code: -32601, message: "not known here" } })
    }
  }
}

// A call that did not get as far as our process.
class NotDone extends Error {}

const names = ({ session, id }) => ({ session, id })

const withToken = (params, id) => ({ ...params, _meta: { ...params._meta, progressToken: id } })

// Lines of JSON; what is none is skipped.
function read(stream, take) {
  let parts = []
  stream.setEncoding("utf8")
  stream.on("data", (chunk) => {
    const lines = chunk.split("\n")
    for (const [n, line] of lines.entries()) {
      parts.push(line)
      if (n === lines.length - 1) break
      const whole = parts.join("")
      parts = []
      quietly(() => take(JSON.parse(whole)))
    }
  })
}

// --- the sessions --------------------------------------------------------------------------------------

// What was handed over: the message of OpenCode's that holds it, whether a request to the model held that
// one (`tried`), and whether the model's server took such a request (`seen`).
class Item {
  constructor(id, text) {
    this.id = id
    this.text = text
    this.message = undefined
    this.tried = false
    this.seen = false
    this.kicked = false
    this.late = false // OpenCode was asked, and did not store it in time; it may still come
    this.taken = new Promise((resolve) => (this.take = resolve))
  }

  // Whether one holds a message that the other holds: an id names them all.
  shares(other) {
    const ours = new Set(messagesOf(this.id))
    return messagesOf(other.id).some((each) => ours.has(each))
  }
}

const messagesOf = (id) => id.replace(/^ecorelay:/, "").split(",")

class Session {
  constructor(relay, id, place, info) {
    this.relay = relay
    this.id = id
    this.place = place
    this.info = info
    this.busy = false
    this.items = new Map()
    this.queue = Promise.resolve()
    this.known = false // what it was given before is in `items`
    this.met = null // the process of ours that knows of it
    this.welcome = ""
    this.welcomed = new Promise((resolve) => (this.greet = resolve))
  }

  // One thing after the other.
  enqueue(act) {
    this.queue = this.queue.then(() => quietly(act))
  }

  // After what is being handed over: whoever hears this must know of it.
  introduce() {
    this.enqueue(() => this.known && this.describe())
  }

  // Whether the process of ours that runs knows of it.
  isMet() {
    const { child } = this.relay
    return child.ready && this.met === child.process
  }

  describe() {
    const { child } = this.relay
    if (!child.ready) return // the next that is ready hears it
    if (this.relay.sessions.get(this.id) !== this) return // it was deleted while this waited
    this.met = child.process
    const there = [...this.items.values()].filter((item) => item.message !== undefined).slice(-TOLD_MAX)
    child.tell("session", {
      session: this.id,
      directory: this.info.directory ?? this.place.directory,
      handed_over: there.map((item) => item.id),
      seen: there.filter((item) => item.seen).map((item) => item.id),
    })
    child.tell("status", { session: this.id, busy: this.busy })
  }

  // To a process that knows of this session; another one hears it all when it does.
  tell(what, params) {
    if (this.isMet()) this.relay.child.tell(what, { session: this.id, ...params })
  }

  told(what, params) {
    if (what === "hand_over" && typeof params.id === "string" && typeof params.text === "string") {
      const item = this.items.get(params.id)
      if (item === undefined) {
        const added = new Item(params.id, params.text)
        const until = Number.isFinite(params.until) ? params.until : Infinity
        this.remember(added)
        this.enqueue(() => this.handOver(added, until))
      } else if (item.message !== undefined) {
        this.tellOf(item)
      } else if (item.late) {
        this.enqueue(() => this.settle(item))
      }
    } else if (what === "canary") {
      this.canary(params.id)
    } else if (what === "welcome" && typeof params.text === "string") {
      this.welcome = params.text
      this.greet()
    }
  }

  remember(item) {
    this.items.set(item.id, item)
    if (this.items.size > ITEMS_MAX) this.items.delete(this.items.keys().next().value)
  }

  saw(item) {
    if (item.seen) return
    item.seen = true
    this.tell("seen", { id: item.id })
  }

  tellOf(item) {
    this.tell("handed_over", { id: item.id })
    if (item.seen) this.tell("seen", { id: item.id })
  }

  refuse(item, why) {
    this.tell("refused", { id: item.id, why })
  }

  forget(item) {
    if (this.items.get(item.id) === item && item.message === undefined) this.items.delete(item.id)
  }

  // Nothing is handed over after `until`: then its mail was left to relay_inbox.
  async handOver(item, until) {
    const there = [...this.items.values()].filter(
      (other) => other !== item && (other.late || other.message !== undefined) && other.shares(item),
    )
    if (there.length > 0) {
      this.forget(item)
      for (const other of there) if (other.message !== undefined) this.tellOf(other)
      this.refuse(item, "some of it was handed over before")
      return
    }
    const put = this.put(item, Math.min(until, Date.now() + TAKEN_MS))
    put.catch(() => this.forget(item)) // however late: it was not put there, and may come again
    try {
      await within(TAKEN_MS, put.then(() => item.taken))
    } catch (error) {
      if (item.message === undefined) this.refuse(item, reason(error))
      return
    }
    if (item.message === undefined) await this.settle(item)
  }

  async put(item, until) {
    const part = { type: "text", text: item.text, metadata: { ecorelay: item.id } }
    const prompted = await this.prompt([part], () => {
      if (Date.now() > until) throw new Error("it came too late")
    })
    item.text = ""
    if (!prompted) this.taken(item, "") // of this door nothing more is heard
  }

  // Of what OpenCode was asked to take: whether it is there, heard of or not. What is not stays remembered, for
  // it may still be stored: then it is told, and it is never put there twice.
  async settle(item) {
    await quietly(() => within(LOOK_MS, this.remind()))
    item.late = item.message === undefined
    if (item.late) this.refuse(item, "OpenCode did not take it")
  }

  // False: through the other door. `check` throws if it must not be after all: it is the last thing before.
  async prompt(parts, check) {
    const { client, serverUrl } = this.place
    const info = await this.relay.look(this.id, this.place)
    if (info.revert) throw new Error("something was undone here, and a message would make that final")
    this.info = info
    check()
    if (typeof client?.session?.promptAsync !== "function") {
      const body = JSON.stringify({ text: parts.map((part) => part.text).join("\n"), delivery: "queue" })
      const url = new URL(`/api/session/${encodeURIComponent(this.id)}/prompt`, serverUrl)
      const headers = { "content-type": "application/json" }
      const answer = await fetch(url, { method: "POST", headers, body })
      if (!answer.ok) throw new Error(`OpenCode answers ${answer.status}`)
      return false
    }
    // A message that names no agent would take the session out of the one it is in: out of planning, for one.
    const body = { parts, ...(info.agent ? mode(info) : this.mode) }
    await found(client.session.promptAsync({ path: { id: this.id }, body }))
    return true
  }

  taken(item, message) {
    const first = item.message === undefined
    item.message = message
    item.late = false
    item.take(true)
    if (first) this.tellOf(item)
  }

  async canary(id) {
    try {
      await this.relay.look(this.id, this.place)
      this.tell("canary_answer", { id, ok: true, says: "the session answers" })
    } catch (error) {
      this.tell("canary_answer", { id, ok: false, says: reason(error) })
    }
  }

  // Learn from the conversation what it was given: by a process before this one, or unheard.
  async remind() {
    const query = { limit: HISTORY }
    const messages = (await found(this.place.client.session.messages({ path: { id: this.id }, query }))) ?? []
    for (const { info, parts } of messages) {
      if (info.role !== "user") continue
      for (const part of parts) {
        const id = part.metadata?.ecorelay
        if (part.type !== "text" || typeof id !== "string") continue
        const answers = messages.filter((other) => other.info.parentID >= info.id && !other.info.summary)
        const item = this.items.get(id) ?? new Item(id, "")
        this.remember(item)
        item.tried ||= answers.length > 0
        if (answers.some((other) => other.parts.some((each) => each.type === "step-start"))) this.saw(item)
        if (item.message === undefined) this.taken(item, info.id)
      }
    }
  }

  is(busy) {
    if (busy !== this.busy) {
      this.busy = busy
      this.tell("status", { busy })
    }
    clearTimeout(this.kicking)
    if (!busy) this.kicking = later(KICK_MS, () => this.kick())
  }

  // A turn that was interrupted, or just over, leaves what came last without an answer.
  async kick() {
    const left = [...this.items.values()].filter((item) => item.message && !item.tried && !item.kicked)
    if (this.busy || left.length === 0) return
    for (const item of left) item.kicked = true
    await quietly(() =>
      this.prompt([{ type: "text", text: KICK, synthetic: true }], () => {
        if (!this.busy) return
        for (const item of left) item.kicked = false
        throw new Error("a turn began, and holds it")
      }),
    )
  }

  // --- what OpenCode does -------------------------------------------------------------------------------

  part(part) {
    if (part.type === "text" && typeof part.metadata?.ecorelay === "string") {
      const item = this.items.get(part.metadata.ecorelay)
      if (item) this.taken(item, part.messageID)
    } else if (part.type === "step-start" && part.messageID === this.request?.answer) {
      for (const item of this.request.items) this.saw(item)
      this.request = undefined
    }
  }

  message(info) {
    if (info.role === "user") this.mode = mode(info)
    else if (info.role === "assistant" && !(info.id < this.answer?.id)) this.answer = info
  }

  // A request to the model is being made of these messages, and will be answered by `answer`.
  requested(messages) {
    const shown = new Set()
    for (const { parts } of messages)
      for (const part of parts) if (part.type === "text") shown.add(part.metadata?.ecorelay)
    const items = [...this.items.values()].filter((item) => shown.has(item.id))
    this.request = undefined
    if (!this.answer || this.answer.summary) return // what is summed up is shown afterwards
    for (const item of items) item.tried = true
    this.request = { answer: this.answer.id, items }
  }
}

// The agent and model of a session, or of a message of the user's, as a prompt names them.
function mode(info) {
  const found = {}
  if (typeof info.agent === "string") found.agent = info.agent
  const { providerID, id, modelID = id, variant = info.variant } = info.model ?? {}
  if (providerID && modelID) found.model = { providerID, modelID }
  if (typeof variant === "string" && variant !== "default") found.variant = variant
  return found
}

// --- all of them ---------------------------------------------------------------------------------------

class Relay {
  constructor() {
    this.sessions = new Map() // those that are peers
    this.parents = new Map() // session → its parent; null: it has none
    this.meeting = new Map()
    this.busy = new Set() // sessions in which a turn runs, peers or not
    this.results = new Map() // call → its result, until OpenCode has cut it
    this.resumed = false // what the command line says was done
    this.child = new Child(this.sessions)
  }

  // The session for which this one acts, when it is a peer; undefined: there is none.
  async meet(id, place, info) {
    const session = this.sessions.get(id)
    if (session?.known) {
      session.place = place
      return session
    }
    if (typeof this.parents.get(id) === "string") return this.meet(this.parents.get(id), place)
    let meeting = this.meeting.get(id)
    if (meeting === undefined) {
      meeting = this.welcome(id, place, info).finally(() => this.meeting.delete(id))
      this.meeting.set(id, meeting)
    }
    return meeting
  }

  async welcome(id, place, info) {
    const isNew = info !== undefined
    info ??= await this.look(id, place)
    this.parents.set(id, info.parentID ?? null)
    if (info.parentID) return this.meet(info.parentID, place)
    if (info.time?.archived) return undefined
    const session = this.sessions.get(id) ?? new Session(this, id, place, info)
    this.sessions.set(id, session) // from here on it hears what happens in it
    session.busy = this.busy.has(id)
    if (!isNew) await quietly(() => session.remind())
    if (this.sessions.get(id) !== session) return undefined // deleted meanwhile
    session.known = true
    session.introduce()
    if (!session.busy) session.is(false)
    return session
  }

  // What OpenCode knows of a session.
  async look(id, place) {
    const { session } = place.client ?? {}
    if (typeof session?.get !== "function") return {}
    const info = await found(session.get({ path: { id } }))
    if (!info) throw new Error("there is no such session")
    return info
  }

  forget(id) {
    this.busy.delete(id)
    const session = this.sessions.get(id)
    if (session === undefined) return
    this.sessions.delete(id)
    clearTimeout(session.kicking)
    this.child.tell("gone", { session: id })
  }

  heard(place, { type, properties }) {
    const { info, part, status } = properties ?? {}
    const own = type.startsWith("session.") ? info?.id : undefined
    const id = properties?.sessionID ?? part?.sessionID ?? info?.sessionID ?? own
    if (typeof id !== "string") return
    if (type === "session.deleted" || (type === "session.updated" && info?.time?.archived)) {
      this.forget(id)
      return
    }
    const session = this.sessions.get(id)
    const now = type === "session.idle" ? "idle" : type === "session.status" ? status?.type : undefined
    if (now !== undefined) this.busy[now === "idle" ? "delete" : "add"](id)
    if (session) {
      session.place = place
      if (now !== undefined) session.is(now !== "idle")
      else if (type === "message.part.updated") session.part(part)
      else if (type === "message.updated") session.message(info)
    } else if (!type.startsWith("message.part.")) {
      quietly(() => this.meet(id, place, type === "session.created" ? info : undefined))
    }
  }

  async call(place, tool, args, context) {
    const session = await quietly(() => this.meet(context.sessionID, place))
    if (!session) return UNKNOWN
    // The process may end while it is waited for; after this loop nothing is awaited until the call is written.
    for (let tries = 0; ; tries++) {
      if (this.sessions.get(session.id) !== session) return UNKNOWN
      if (session.isMet()) break
      if (tries === TRIES) return `ecorelay ends again and again (${this.child.why}). ${NOTHING_DONE}`
      await session.queue // it is introduced
      if (!(await this.child.isReady()))
        return `ecorelay could not be started (${WORDS[0]}: ${this.child.why}). ${NOTHING_DONE}`
    }
    let result
    try {
      const params = { name: tool, arguments: args ?? {}, _meta: { "ecorelay/session": session.id } }
      result = await this.child.request("tools/call", params, context.abort)
    } catch (error) {
      if (error instanceof NotDone) return `${reason(error)}.`
      return `${reason(error)}: what was called for may have been done or not. Look before you do it again.`
    }
    const text = (result?.content ?? []).map((block) => block.text ?? "").join("\n")
    if (context.callID) {
      this.results.set(context.callID, text)
      if (this.results.size > RESULTS_MAX) this.results.delete(this.results.keys().next().value)
    }
    return text
  }

  // OpenCode shows the model 50 KiB of a result, and none of a longer line; mail is read whole.
  restore(callID, output) {
    const text = this.results.get(callID)
    if (text === undefined) return
    this.results.delete(callID)
    output.output = text
    if (output.metadata?.truncated) output.metadata.truncated = false
  }

  requested(messages) {
    const id = messages.findLast(({ info }) => info.sessionID)?.info.sessionID
    this.sessions.get(id)?.requested(messages)
  }

  async instruct(id, place, system) {
    if (system.length === 0 || system[0].startsWith("You are a title generator")) return
    const session = await this.meet(id, place)
    if (session?.id !== id) return // a subagent is nobody
    // The same words from the first request on: providers keep what they know of a prompt by its beginning.
    if (!session.asked && this.child.failures < FAILURES) await within(WELCOME_MS, session.welcomed)
    session.asked = true
    if (session.welcome && !system.some((text) => text.includes(session.welcome)))
      system[system.length - 1] += `\n\n${session.welcome}` // not one more: some models take only one
  }

  // Nothing is told of a session that was opened again, before something happens in it.
  async resume(place) {
    if (this.resumed) return
    this.resumed = true
    const id = resumed(await commandLine())
    if (id === undefined) return
    if (id !== "") {
      await this.meet(id, place)
      return
    }
    const listed = (await found(place.client.session.list())) ?? []
    const own = listed.filter((info) => !info.parentID && info.directory === place.directory)
    const [latest] = own.sort((a, b) => b.time.updated - a.time.updated) // as OpenCode chooses
    if (latest) await this.meet(latest.id, place)
  }
}

// The session that this command line opens again; empty: the latest; undefined: none.
function resumed(words) {
  let id
  if (["run", "serve", "web", "acp", "attach"].includes(words[1])) return undefined
  for (const [n, word] of words.entries()) {
    if (word === "--fork") return undefined
    if (word === "-c" || word === "--continue") id ??= ""
    if (word === "-s" || word === "--session") id = words[n + 1]
    if (word.startsWith("--session=")) id = word.slice("--session=".length)
  }
  return id
}

// A worker is not told the words of its process.
async function commandLine() {
  try {
    return (await readFile(`/proc/${process.pid}/cmdline`, "utf8")).split("\0").slice(0, -1)
  } catch {
    if (process.platform === "win32") return []
    return new Promise((resolve) =>
      execFile("ps", ["-ww", "-o", "args=", "-p", String(process.pid)], (error, out) =>
        resolve(error ? [] : out.trim().split(/\s+/)),
      ),
    )
  }
}

// --- small things --------------------------------------------------------------------------------------

function later(ms, act) {
  const timer = setTimeout(() => quietly(act), ms)
  timer.unref?.()
  return timer
}

// What a promise gives, or undefined after so long.
async function within(ms, promise) {
  let timer
  const over = new Promise((resolve) => (timer = setTimeout(resolve, ms)))
  timer.unref?.()
  try {
    return await Promise.race([promise, over])
  } finally {
    clearTimeout(timer)
  }
}

// What OpenCode gives; its failures come as answers.
async function found(answer) {
  const { data, error } = (await answer) ?? {}
  if (error) throw new Error(reason(error))
  return data
}

function reason(error) {
  const said = error?.data?.message ?? error?.message ?? error?.name ?? error
  return String(typeof said === "object" ? JSON.stringify(said) : said).slice(0, 300)
}

async function quietly(act) {
  try {
    return await act()
  } catch {
    return undefined
  }
}

// --- the plugin ----------------------------------------------------------------------------------------

// OpenCode calls it for each directory it works in, and again when its settings change.
export const Ecorelay = async (place) => {
  const key = Symbol.for(`ecorelay ${process.pid}`)
  const relay = (globalThis[key] ??= new Relay())
  // Later: what OpenCode is asked now, it answers when this has returned.
  setTimeout(() => quietly(() => relay.resume(place)), 0)
  const tool = {}
  for (const { name, description, inputSchema } of TOOLS)
    tool[name] = {
      description,
      args: inputSchema.properties ?? {},
      execute: (args, context) => relay.call(place, name, args, context),
    }
  const schemas = new Map(TOOLS.map((each) => [each.name, each.inputSchema]))
  return {
    tool,
    event: async ({ event }) => quietly(() => relay.heard(place, event)),
    "chat.message": async ({ sessionID }) => quietly(() => void relay.meet(sessionID, place).catch(() => {})),
    // Of `args` alone OpenCode makes a schema in which nothing is optional.
    "tool.definition": async ({ toolID }, output) => {
      if (schemas.has(toolID)) output.jsonSchema = schemas.get(toolID)
    },
    "tool.execute.after": async ({ callID }, output) => quietly(() => relay.restore(callID, output)),
    "experimental.chat.messages.transform": async (_, { messages }) =>
      quietly(() => relay.requested(messages)),
    "experimental.chat.system.transform": async ({ sessionID }, { system }) => {
      if (sessionID) await quietly(() => relay.instruct(sessionID, place, system))
    },
  }
}
