// Lists and calls the tools of an MCP server with the official TypeScript SDK, and prints what it saw.
//
//   node typescript_client.cjs FOLDER COMMAND ARGUMENT...
//
// FOLDER holds node_modules; CALLS in the environment is a JSON list of [tool, arguments].
"use strict";

const { createRequire } = require("node:module");
const path = require("node:path");

const [folder, command, ...args] = process.argv.slice(2);
const load = createRequire(path.join(folder, "package.json"));
const { Client } = load("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = load("@modelcontextprotocol/sdk/client/stdio.js");

async function main() {
  const client = new Client({ name: "typescript-client", version: "1.0.0" }, { capabilities: {} });
  const problems = [];
  client.onerror = (error) => problems.push(String(error));
  const transport = new StdioClientTransport({ command, args, env: process.env, cwd: process.cwd() });
  await client.connect(transport);
  const { tools } = await client.listTools();
  const results = [];
  for (const [name, given] of JSON.parse(process.env.CALLS)) {
    const result = await client.callTool({ name, arguments: given });
    results.push({ isError: result.isError ?? false, fields: JSON.parse(result.content[0].text) });
  }
  const seen = {
    server: client.getServerVersion(),
    instructions: client.getInstructions(),
    tools,
    results,
    problems,
  };
  await client.close();
  console.log(JSON.stringify(seen));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
