"""A server whose database is damaged comes up with its nodes, and says so."""


def scratch(file, offset):
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(b"\xa5" * 4096)


def test_a_damaged_database_is_moved_aside_and_the_nodes_are_there(server, node):
    server.admin("PATCH", "/nodes/gpu-01", {"max_concurrent": 3})
    assert server.stop() == 0
    scratch(server.folder / "data" / "scheduler.db", 4096)
    server.start()
    assert server.wait_for_node("gpu-01", health="up")["max_concurrent"] == 3
    assert server.post({"model": "sim"}).status_code == 200
    [warning] = [words for words in server.status()["warnings"] if "damaged" in words]
    [aside] = (server.folder / "data").glob("scheduler.db.damaged-*Z")
    assert str(aside) in warning
    [event] = [event for event in server.get("/events")["events"] if event["kind"] == "database.damaged"]
    assert "1 nodes come from roster.json" in event["note"]
    assert any(line["level"] == "error" and "is damaged" in line["message"] for line in server.log_lines)
    # Said until somebody has looked after the file.
    aside.unlink()
    assert not [words for words in server.status()["warnings"] if "damaged" in words]
