// A small Lambda runtime client: loads the handler, then asks for one event after the other.
// Handlers are async functions or functions with a callback: handler(event, context[, callback]).
import { createRequire } from 'node:module';
import { existsSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(':');
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function call(method, route, body, headers = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request(
      { host, port, agent, method, path: `/2018-06-01/runtime${route}`, headers },
      (response) => {
        const chunks = [];
        response.on('data', (chunk) => chunks.push(chunk));
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString();
          if (response.statusCode >= 400) reject(new Error(`${route}: ${response.statusCode} ${text}`));
          else resolve({ headers: response.headers, text });
        });
        response.on('error', reject);
      },
    );
    request.on('error', reject);
    request.end(body);
  });
}

function report(error) {
  const known = error instanceof Error;
  return JSON.stringify({
    errorType: known ? error.name : typeof error,
    errorMessage: known ? error.message : String(error),
    trace: known && error.stack ? error.stack.split('\n') : [],
  });
}

async function load(handler) {
  const at = handler.lastIndexOf('.');
  const [file, name] = [handler.slice(0, at), handler.slice(at + 1)];
  const base = path.resolve(process.env.LAMBDA_TASK_ROOT, file);
  const found = ['.mjs', '.cjs', '.js'].map((suffix) => base + suffix).find(existsSync);
  if (at < 1 || !found) throw Object.assign(new Error(`Cannot find module '${file}'`), { name: 'Runtime.ImportModuleError' });
  const module = found.endsWith('.mjs')
    ? await import(pathToFileURL(found))
    : createRequire(import.meta.url)(found);
  if (typeof module[name] !== 'function') {
    throw Object.assign(new Error(`${handler} is undefined or not exported`), { name: 'Runtime.HandlerNotFound' });
  }
  return module[name];
}

function context(headers) {
  const deadline = Number(headers['lambda-runtime-deadline-ms']);
  return {
    awsRequestId: headers['lambda-runtime-aws-request-id'],
    invokedFunctionArn: headers['lambda-runtime-invoked-function-arn'],
    functionName: process.env.AWS_LAMBDA_FUNCTION_NAME,
    functionVersion: process.env.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: process.env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: process.env.AWS_LAMBDA_LOG_STREAM_NAME,
    callbackWaitsForEmptyEventLoop: true,
    getRemainingTimeInMillis: () => deadline - Date.now(),
  };
}

function invoke(handler, event, about) {
  return new Promise((resolve, reject) => {
    const callback = (error, value) => (error ? reject(error) : resolve(value));
    const result = handler(event, about, callback);
    if (result && typeof result.then === 'function') result.then(resolve, reject);
    else if (handler.length < 3) resolve(result);
  });
}

let handler;
try {
  handler = await load(process.argv[2] ?? '');
} catch (error) {
  console.error(error);
  await call('POST', '/init/error', report(error), { 'Lambda-Runtime-Function-Error-Type': error.name });
  process.exit(1);
}

for (;;) {
  const next = await call('GET', '/invocation/next');
  const about = context(next.headers);
  try {
    const value = await invoke(handler, JSON.parse(next.text), about);
    await call('POST', `/invocation/${about.awsRequestId}/response`, JSON.stringify(value ?? null));
  } catch (error) {
    console.error(error);
    await call('POST', `/invocation/${about.awsRequestId}/error`, report(error));
  }
}
