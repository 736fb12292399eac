-- What taking over a database of the original needs in the schema (protocol v1, section 6). The statements that do it are
-- in slayq_server/db/original.
-- compatible with: 6

-- Functions of others whose place ours have taken, as they were, so that they can be put back.
create table slayq.replaced_function (
    signature text primary key,
    definition text not null,
    replaced_at timestamptz not null default now()
);

-- What the checks of adding say of a job, without raising: what its row needs, or why no callback can be made of it.
create function slayq._inspect_job_1(
    identifier text, payload json, queue_name text, run_at timestamptz, max_attempts integer, job_key text,
    priority integer, out event text, out match_terms bigint[], out fault text
) language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    perform slayq._check_job_1(identifier, queue_name, run_at, max_attempts, job_key, priority);
    select facts.event, facts.match_terms into event, match_terms from slayq._inspect_payload_1(payload) as facts;
exception when others then
    if sqlstate not like 'SQ0%' then
        raise;
    end if;
    fault := sqlerrm;
    event := case when json_typeof(payload) = 'object' then left(slayq._readable_1(payload) ->> 'event', 512) end;
end
$$;
